//! CRI v1 as Rust types: the generated code, and what must never be printed.
//!
//! [`v1`] is CRI; [`operator`] is what the `berth` command asks besides; [`nri`] is what plugins of the Node
//! Resource Interface are told and answer.
//! `cri-v1.proto` is ours, written from the facts in `cri-v1.json`; the code is
//! generated from the definitions by the test `generated_code_is_current` (set
//! `BERTH_REGENERATE=1` to write it anew). Nothing here has behaviour, save the
//! `Debug` of messages with secrets and the encoding of lists that are polled.

#[allow(clippy::all, missing_debug_implementations, unreachable_pub, rustdoc::all)]
#[rustfmt::skip]
pub mod v1;

#[allow(clippy::all, missing_debug_implementations, unreachable_pub, rustdoc::all)]
#[rustfmt::skip]
pub mod operator;

#[allow(clippy::all, missing_debug_implementations, unreachable_pub, rustdoc::all, non_camel_case_types)]
#[rustfmt::skip]
pub mod nri;

mod list;
mod redacted;

pub use list::List;

/// The generated code has these in place of its own.
pub type ListPodSandboxResponse = List<v1::PodSandbox>;
pub type ListContainersResponse = List<v1::Container>;
pub type ListImagesResponse = List<v1::Image>;
