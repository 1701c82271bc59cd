//! The one error type: a class that becomes the C return code, and a text for the user.

use std::fmt;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub enum Class {
    /// Files, texts or ids that cannot be used.
    Data = 1,
    /// The chat template: syntax, a raised exception, a limit, or spans that cannot be placed.
    Template = 2,
    /// A bug of ours or of a library: a caught panic.
    Internal = 3,
}

#[derive(Clone, Debug)]
pub struct Error {
    pub class: Class,
    pub text: String,
}

impl Error {
    pub fn data(text: impl Into<String>) -> Self {
        Error { class: Class::Data, text: text.into() }
    }
    pub fn template(text: impl Into<String>) -> Self {
        Error { class: Class::Template, text: text.into() }
    }
    pub fn internal(text: impl Into<String>) -> Self {
        Error { class: Class::Internal, text: text.into() }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for Error {}

pub type Result<T> = std::result::Result<T, Error>;
