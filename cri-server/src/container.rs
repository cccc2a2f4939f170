//! Containers: what one is to be (plan), how far it is (life), and how it is made and taken away.

pub mod plan;
