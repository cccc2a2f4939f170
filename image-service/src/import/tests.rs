//! Archives of both kinds, honest and hostile.
