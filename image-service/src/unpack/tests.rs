//! Archives, honest and hostile, against the real kernel.
