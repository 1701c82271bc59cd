//! The C interface: panics become errors, results are boxed slices that go back through the free functions.
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::ptr::slice_from_raw_parts_mut;

use crate::tekken::Tekken;
use crate::utf8::Utf8;

#[repr(C)]
pub struct Bytes {
    data: *mut u8,
    size: usize,
}

#[repr(C)]
pub struct Ids {
    data: *mut u32,
    size: usize,
}

impl Bytes {
    fn of(bytes: &[u8]) -> Self {
        let boxed: Box<[u8]> = bytes.into();
        Self { size: boxed.len(), data: Box::into_raw(boxed).cast() }
    }
}

/// Fills `error` and gives the status.
fn finish(result: std::thread::Result<Result<(), String>>, error: *mut Bytes) -> i32 {
    let text = match result {
        Ok(Ok(())) => return 0,
        Ok(Err(text)) => text,
        Err(_) => "the tokenizer panicked on this text".to_string(),
    };
    if !error.is_null() {
        unsafe { error.write(Bytes::of(text.as_bytes())) };
    }
    1
}

/// The text of `size` bytes; null only where that is 0.
unsafe fn text<'a>(data: *const u8, size: usize) -> Result<&'a str, String> {
    std::str::from_utf8(bytes(data, size)).map_err(|e| format!("it is no UTF-8: {e}"))
}

unsafe fn bytes<'a>(data: *const u8, size: usize) -> &'a [u8] {
    if size == 0 {
        &[]
    } else {
        std::slice::from_raw_parts(data, size)
    }
}

#[no_mangle]
pub unsafe extern "C" fn text_tekken_bytes_free(bytes: Bytes) {
    if !bytes.data.is_null() {
        drop(Box::from_raw(slice_from_raw_parts_mut(bytes.data, bytes.size)));
    }
}

#[no_mangle]
pub unsafe extern "C" fn text_tekken_ids_free(ids: Ids) {
    if !ids.data.is_null() {
        drop(Box::from_raw(slice_from_raw_parts_mut(ids.data, ids.size)));
    }
}

#[no_mangle]
pub unsafe extern "C" fn text_tekken_new(json: *const u8, size: usize, codec: *mut *mut Tekken, error: *mut Bytes) -> i32 {
    finish(
        catch_unwind(AssertUnwindSafe(|| {
            let made = Tekken::new(text(json, size)?)?;
            codec.write(Box::into_raw(Box::new(made)));
            Ok(())
        })),
        error,
    )
}

#[no_mangle]
pub unsafe extern "C" fn text_tekken_free(codec: *mut Tekken) {
    if !codec.is_null() {
        drop(Box::from_raw(codec));
    }
}

#[no_mangle]
pub unsafe extern "C" fn text_tekken_vocab_size(codec: *const Tekken) -> u32 {
    (*codec).vocab_size() as u32
}

#[no_mangle]
pub unsafe extern "C" fn text_tekken_special_count(codec: *const Tekken) -> u32 {
    (*codec).special_count() as u32
}

#[no_mangle]
pub unsafe extern "C" fn text_tekken_version(codec: *const Tekken) -> u32 {
    (*codec).version()
}

#[no_mangle]
pub unsafe extern "C" fn text_tekken_token(codec: *const Tekken, id: u32) -> Bytes {
    Bytes::of((*codec).token(id))
}

#[no_mangle]
pub unsafe extern "C" fn text_tekken_id(codec: *const Tekken, data: *const u8, size: usize) -> i64 {
    (*codec).id(bytes(data, size)).map_or(-1, i64::from)
}

#[no_mangle]
pub unsafe extern "C" fn text_tekken_encode(codec: *const Tekken, data: *const u8, size: usize, ids: *mut Ids, error: *mut Bytes) -> i32 {
    finish(
        catch_unwind(AssertUnwindSafe(|| {
            let found = (*codec).encode(text(data, size)?).into_boxed_slice();
            ids.write(Ids { size: found.len(), data: Box::into_raw(found).cast() });
            Ok(())
        })),
        error,
    )
}

#[no_mangle]
pub extern "C" fn text_tekken_utf8_new() -> *mut Utf8 {
    Box::into_raw(Box::default())
}

#[no_mangle]
pub unsafe extern "C" fn text_tekken_utf8_free(utf8: *mut Utf8) {
    if !utf8.is_null() {
        drop(Box::from_raw(utf8));
    }
}

#[no_mangle]
pub unsafe extern "C" fn text_tekken_utf8_push(utf8: *mut Utf8, data: *const u8, size: usize) -> Bytes {
    Bytes::of((*utf8).push(bytes(data, size)).as_bytes())
}

#[no_mangle]
pub unsafe extern "C" fn text_tekken_utf8_flush(utf8: *mut Utf8) -> Bytes {
    Bytes::of((*utf8).flush().as_bytes())
}
