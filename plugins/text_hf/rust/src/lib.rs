//! Tokenizer and chat template of a Hugging Face checkpoint, behind the C interface of ../text_hf.h.

pub mod codec;
pub mod error;
mod ffi;
pub mod guard;
pub mod load;
pub mod python;
pub mod rewrite;
pub mod spans;
pub mod special;
pub mod stream;
pub mod template;
