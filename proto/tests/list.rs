//! A list of items and of bytes is to its reader a list of items.

use prost::Message as _;
use proto::v1::{Container, ContainerMetadata, StreamContainersResponse};
use proto::{List, ListContainersResponse};

fn container(id: &str) -> Container {
    let metadata = Some(ContainerMetadata { name: format!("name of {id}"), attempt: 3 });
    let labels = [("app".to_owned(), "x".repeat(200))].into();
    Container { id: id.into(), metadata, labels, created_at: 7, ..Default::default() }
}

#[test]
fn items_and_bytes_are_read_as_items() {
    let mixed = ListContainersResponse {
        items: vec![container("a")],
        encoded: vec![List::encoded(&container("b")), List::encoded(&Container::default())],
    };
    let bytes = mixed.encode_to_vec();
    assert_eq!(bytes.len(), mixed.encoded_len());
    let expected = vec![container("a"), container("b"), Container::default()];
    // Generated for the same field.
    let plain = StreamContainersResponse { containers: expected.clone() };
    assert_eq!(bytes, plain.encode_to_vec());
    let read = ListContainersResponse::decode(&*bytes).unwrap();
    assert_eq!(read, ListContainersResponse { items: expected, encoded: vec![] });
}

#[test]
fn fields_of_a_later_interface_are_passed_over() {
    let known = ListContainersResponse { items: vec![container("a")], encoded: vec![] };
    // Field 2, a number: 5.
    let bytes = [&[0x10, 5], &*known.encode_to_vec()].concat();
    assert_eq!(ListContainersResponse::decode(&*bytes).unwrap(), known);
    assert!(ListContainersResponse::decode(&bytes[..bytes.len() - 1]).is_err(), "cut off");
}
