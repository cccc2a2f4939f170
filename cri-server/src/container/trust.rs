//! Asks the policy whether a container may be made of an image: each time, whenever and for whomever that was pulled.

use image_service::Image;
use proto::v1;

use super::make::Order;
use crate::error::Error;
use crate::node::Node;

/// `spec` is how the image was asked for: the kubelet does so by id, and says beside it what the user wrote.
///
/// # Errors
/// `SignatureValidationFailed`, as a pull has it, when the policy for the pod's namespace does not let the image run.
pub(super) async fn judge(
    node: &Node,
    order: &Order,
    image: &Image,
    spec: &v1::ImageSpec,
) -> Result<(), Error> {
    let asked = [spec.user_specified_image.as_str(), spec.image.as_str()];
    let namespace = order.sandbox.config().metadata.as_ref().map(|metadata| metadata.namespace.as_str());
    Ok(node.images.judge(image, &asked, namespace).await?)
}
