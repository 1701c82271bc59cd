//! tekken.json: a vocabulary of byte strings by rank, a pattern that cuts texts into words, special tokens in front. The C interface is text_tekken.h.
mod ffi;
pub mod tekken;
pub mod utf8;
