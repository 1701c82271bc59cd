//! Bytes that arrive in pieces, as text: equal to `String::from_utf8_lossy` of all of them.

#[derive(Default)]
pub struct Utf8 {
    pending: Vec<u8>,
}

impl Utf8 {
    pub fn push(&mut self, bytes: &[u8]) -> String {
        self.pending.extend(bytes);
        let mut text = String::new();
        loop {
            match std::str::from_utf8(&self.pending) {
                Ok(rest) => {
                    text.push_str(rest);
                    self.pending.clear();
                    return text;
                }
                Err(error) => {
                    let valid = error.valid_up_to();
                    text.push_str(&String::from_utf8_lossy(&self.pending[..valid]));
                    let wrong = error.error_len();
                    self.pending.drain(..valid + wrong.unwrap_or(0));
                    if wrong.is_none() {
                        return text;
                    }
                    text.push(char::REPLACEMENT_CHARACTER);
                }
            }
        }
    }

    pub fn flush(&mut self) -> String {
        String::from_utf8_lossy(&std::mem::take(&mut self.pending)).into_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_equal_the_whole() {
        let bytes = "a\u{e9}\u{20ac}\u{1f600}z".as_bytes();
        for broken in [bytes.to_vec(), bytes[..9].to_vec(), [bytes, &[0xff, 0xe2, 0x82, b'x', 0xf0, 0x9f]].concat()] {
            for step in 1..5 {
                let mut utf8 = Utf8::default();
                let mut text: String = broken.chunks(step).map(|piece| utf8.push(piece)).collect();
                text += &utf8.flush();
                assert_eq!(text, String::from_utf8_lossy(&broken));
            }
        }
    }
}
