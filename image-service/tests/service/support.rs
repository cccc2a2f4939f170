//! What tests need beside the image service: registries, images, disks, signers.

pub(crate) mod cosign;
pub(crate) mod disk;
pub(crate) mod docker_registry;
pub(crate) mod fake;
pub(crate) mod fragile;
pub(crate) mod gpg;
pub(crate) mod picture;
pub(crate) mod proxy;
pub(crate) mod shelf;
pub(crate) mod tls;
