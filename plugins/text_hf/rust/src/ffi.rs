//! The C interface; contracts stand in ../text_hf.h. Every entry catches panics.

use std::cell::RefCell;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::slice;
use std::sync::Once;

use crate::codec::{Codec, Decoding, Files, RenderOptions};
use crate::error::{Error, Result};
use crate::guard::panic_text;

#[repr(C)]
#[derive(Clone, Copy)]
pub struct Text {
    data: *const u8,
    size: usize,
}

#[repr(C)]
pub struct OwnedString {
    data: *mut u8,
    size: usize,
}

#[repr(C)]
#[derive(Clone, Copy)]
pub struct CToken {
    id: i64,
    begin: usize,
    end: usize,
}

#[repr(C)]
#[derive(Clone, Copy)]
pub struct CSpan {
    begin: usize,
    end: usize,
    message: i64,
}

#[repr(C)]
pub struct Array<T> {
    data: *mut T,
    size: usize,
}

#[repr(C)]
pub struct CRendered {
    text: OwnedString,
    spans: *mut CSpan,
    span_count: usize,
}

#[repr(C)]
pub struct CFiles {
    tokenizer_json: Text,
    tokenizer_config: Text,
    special_tokens_map: Text,
    chat_template: Text,
    model_type: Text,
}

/// An empty array has no data, so freeing it is free of conditions on the other side.
fn give<T>(items: Vec<T>) -> (*mut T, usize) {
    if items.is_empty() {
        return (std::ptr::null_mut(), 0);
    }
    let size = items.len();
    (Box::into_raw(items.into_boxed_slice()).cast(), size)
}

unsafe fn take<T>(data: *mut T, size: usize) {
    if !data.is_null() {
        drop(Box::from_raw(std::ptr::slice_from_raw_parts_mut(data, size)));
    }
}

impl From<String> for OwnedString {
    fn from(text: String) -> Self {
        let (data, size) = give(text.into_bytes());
        OwnedString { data, size }
    }
}

impl<T> From<Vec<T>> for Array<T> {
    fn from(items: Vec<T>) -> Self {
        let (data, size) = give(items);
        Array { data, size }
    }
}

impl Text {
    unsafe fn bytes<'a>(self) -> &'a [u8] {
        if self.size == 0 || self.data.is_null() {
            return &[];
        }
        slice::from_raw_parts(self.data, self.size)
    }

    unsafe fn str<'a>(self, what: &str) -> Result<&'a str> {
        std::str::from_utf8(self.bytes()).map_err(|e| Error::data(format!("{what}: not UTF-8 at byte {}", e.valid_up_to())))
    }
}

thread_local! {
    static LAST_PANIC: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Keeps panics off stderr: their text goes into the error. This hook is the crate's own copy of the runtime's, not the program's.
fn quiet_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        std::panic::set_hook(Box::new(|info| {
            let place = info.location().map(|l| format!("{}:{}", l.file().rsplit('/').next().unwrap_or(""), l.line()));
            LAST_PANIC.with(|last| *last.borrow_mut() = place);
        }));
    });
}

fn caught<T>(body: impl FnOnce() -> Result<T>) -> Result<T> {
    quiet_panics();
    catch_unwind(AssertUnwindSafe(body)).unwrap_or_else(|panic| {
        let place = LAST_PANIC.with(|last| last.borrow_mut().take()).map(|place| format!(" at {place}")).unwrap_or_default();
        Err(Error::internal(format!("internal failure: {}{place}", panic_text(panic.as_ref()))))
    })
}

unsafe fn entry<T>(out: *mut T, error: *mut OwnedString, body: impl FnOnce() -> Result<T>) -> i32 {
    match caught(body) {
        Ok(value) => {
            if !out.is_null() {
                out.write(value);
            }
            0
        }
        Err(failure) => {
            let class = failure.class as i32;
            if !error.is_null() {
                error.write(failure.text.into());
            }
            class
        }
    }
}

fn id_of(id: i64) -> Result<u32> {
    u32::try_from(id).map_err(|_| Error::data(format!("{id} is no token id")))
}

#[no_mangle]
pub unsafe extern "C" fn text_hf_string_free(string: OwnedString) {
    take(string.data, string.size);
}

#[no_mangle]
pub unsafe extern "C" fn text_hf_tokens_free(tokens: Array<CToken>) {
    take(tokens.data, tokens.size);
}

#[no_mangle]
pub unsafe extern "C" fn text_hf_ids_free(ids: Array<i64>) {
    take(ids.data, ids.size);
}

#[no_mangle]
pub unsafe extern "C" fn text_hf_rendered_free(rendered: CRendered) {
    take(rendered.text.data, rendered.text.size);
    take(rendered.spans, rendered.span_count);
}

#[no_mangle]
pub unsafe extern "C" fn text_hf_codec_new(files: *const CFiles, codec: *mut *mut Codec, error: *mut OwnedString) -> i32 {
    entry(codec, error, || {
        let files = &*files;
        Ok(Box::into_raw(Box::new(Codec::new(&Files {
            tokenizer_json: files.tokenizer_json.bytes(),
            tokenizer_config: files.tokenizer_config.str("tokenizer_config.json")?,
            special_tokens_map: files.special_tokens_map.str("special_tokens_map.json")?,
            chat_template: files.chat_template.str("chat template")?,
            model_type: files.model_type.str("model_type")?,
        })?)))
    })
}

#[no_mangle]
pub unsafe extern "C" fn text_hf_codec_free(codec: *mut Codec) {
    if !codec.is_null() {
        drop(Box::from_raw(codec));
    }
}

#[no_mangle]
pub unsafe extern "C" fn text_hf_codec_add_tokens(
    codec: *mut Codec,
    tokens: *const Text,
    count: usize,
    special: i32,
    added: *mut usize,
    error: *mut OwnedString,
) -> i32 {
    entry(added, error, || {
        let tokens = if count == 0 { &[] } else { slice::from_raw_parts(tokens, count) };
        let tokens = tokens.iter().map(|token| Ok(token.str("add_tokens")?.to_owned())).collect::<Result<Vec<_>>>()?;
        (*codec).add_tokens(&tokens, special != 0)
    })
}

#[no_mangle]
pub unsafe extern "C" fn text_hf_encode(
    codec: *const Codec,
    text: Text,
    add_special_tokens: i32,
    tokens: *mut Array<CToken>,
    error: *mut OwnedString,
) -> i32 {
    entry(tokens, error, || {
        let tokens = (*codec).encode(text.str("text")?, add_special_tokens != 0)?;
        let tokens: Vec<CToken> = tokens.iter().map(|t| CToken { id: i64::from(t.id), begin: t.begin, end: t.end }).collect();
        Ok(tokens.into())
    })
}

#[no_mangle]
pub unsafe extern "C" fn text_hf_decode(
    codec: *const Codec,
    ids: *const i64,
    count: usize,
    skip_special_tokens: i32,
    text: *mut OwnedString,
    error: *mut OwnedString,
) -> i32 {
    entry(text, error, || {
        let ids = if count == 0 { &[] } else { slice::from_raw_parts(ids, count) };
        let ids = ids.iter().map(|id| id_of(*id)).collect::<Result<Vec<u32>>>()?;
        Ok((*codec).decode(&ids, skip_special_tokens != 0)?.into())
    })
}

#[no_mangle]
pub unsafe extern "C" fn text_hf_decoding_new(codec: *const Codec, skip_special_tokens: i32) -> *mut Decoding {
    Box::into_raw(Box::new((*codec).stream(skip_special_tokens != 0)))
}

#[no_mangle]
pub unsafe extern "C" fn text_hf_decoding_free(decoding: *mut Decoding) {
    if !decoding.is_null() {
        drop(Box::from_raw(decoding));
    }
}

#[no_mangle]
pub unsafe extern "C" fn text_hf_decoding_push(decoding: *mut Decoding, id: i64, piece: *mut OwnedString, error: *mut OwnedString) -> i32 {
    entry(piece, error, || Ok((*decoding).push(id_of(id)?)?.into()))
}

#[no_mangle]
pub unsafe extern "C" fn text_hf_decoding_finish(decoding: *mut Decoding, piece: *mut OwnedString, error: *mut OwnedString) -> i32 {
    entry(piece, error, || Ok((*decoding).finish()?.into()))
}

#[no_mangle]
pub unsafe extern "C" fn text_hf_vocab_size(codec: *const Codec) -> usize {
    (*codec).vocab_size()
}

#[no_mangle]
pub unsafe extern "C" fn text_hf_token_id(codec: *const Codec, token: Text) -> i64 {
    std::str::from_utf8(token.bytes()).ok().and_then(|token| (*codec).token_id(token)).map_or(-1, i64::from)
}

#[no_mangle]
pub unsafe extern "C" fn text_hf_token_text(codec: *const Codec, id: i64) -> OwnedString {
    let text = u32::try_from(id).ok().and_then(|id| (*codec).token(id));
    text.map_or(OwnedString { data: std::ptr::null_mut(), size: 0 }, OwnedString::from)
}

#[no_mangle]
pub unsafe extern "C" fn text_hf_special_id(codec: *const Codec, name: Text) -> i64 {
    let name = std::str::from_utf8(name.bytes()).unwrap_or("");
    (*codec).special_token(name).and_then(|token| (*codec).token_id(token)).map_or(-1, i64::from)
}

#[no_mangle]
pub unsafe extern "C" fn text_hf_is_special(codec: *const Codec, id: i64) -> i32 {
    u32::try_from(id).is_ok_and(|id| (*codec).is_special(id)) as i32
}

#[no_mangle]
pub unsafe extern "C" fn text_hf_special_ids(codec: *const Codec) -> Array<i64> {
    (*codec).special_ids().into_iter().map(i64::from).collect::<Vec<i64>>().into()
}

#[no_mangle]
pub unsafe extern "C" fn text_hf_has_chat_template(codec: *const Codec) -> i32 {
    (*codec).has_template() as i32
}

#[no_mangle]
pub unsafe extern "C" fn text_hf_has_generation_blocks(codec: *const Codec) -> i32 {
    (*codec).has_generation_blocks() as i32
}

#[no_mangle]
pub unsafe extern "C" fn text_hf_starts_with_bos(codec: *const Codec, text: Text) -> i32 {
    // Only the beginning counts, so what follows need not be UTF-8.
    let bytes = text.bytes();
    let valid = std::str::from_utf8(bytes).unwrap_or_else(|e| std::str::from_utf8(&bytes[..e.valid_up_to()]).unwrap_or(""));
    (*codec).starts_with_bos(valid) as i32
}

#[no_mangle]
pub unsafe extern "C" fn text_hf_render(
    codec: *const Codec,
    messages: Text,
    variables: Text,
    flags: i32,
    rendered: *mut CRendered,
    error: *mut OwnedString,
) -> i32 {
    entry(rendered, error, || {
        let options =
            RenderOptions { add_generation_prompt: flags & 1 != 0, continue_final_message: flags & 2 != 0, want_spans: flags & 4 != 0 };
        let result = (*codec).render(messages.str("messages")?, variables.str("template variables")?, options)?;
        let spans: Vec<CSpan> = result
            .spans
            .iter()
            .map(|span| CSpan { begin: span.begin, end: span.end, message: span.message.map_or(-1, |message| message as i64) })
            .collect();
        let (spans, span_count) = give(spans);
        Ok(CRendered { text: result.text.into(), spans, span_count })
    })
}
