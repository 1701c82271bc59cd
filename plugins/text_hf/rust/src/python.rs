//! What chat templates expect of Python: json.dumps, strftime, and string methods that minijinja-contrib does not have.

use minijinja::value::{from_args, Kwargs, Rest, Value, ValueKind, ValueOrKwargs};
use minijinja::{Error, ErrorKind, State};
use serde_json::Value as Json;

/// Deeper values, cyclic ones among them, are refused.
const MAX_DEPTH: usize = 200;

fn invalid(text: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::new(ErrorKind::InvalidOperation, text)
}

/// transformers' filter: json.dumps without HTML escapes and with ensure_ascii False.
pub fn tojson(value: &Value, args: Rest<ValueOrKwargs>) -> Result<Value, Error> {
    let args = args.into_values();
    type Arguments = (Option<bool>, Option<Value>, Option<Value>, Option<bool>, Kwargs);
    let (ensure_ascii, indent, separators, sort_keys, kwargs): Arguments = from_args(&args)?;
    let indent = pick(indent, &kwargs, "indent")?;
    let separators = pick(separators, &kwargs, "separators")?;
    let ensure_ascii = ensure_ascii.or(kwargs.get::<Option<bool>>("ensure_ascii")?).unwrap_or(false);
    let sort_keys = sort_keys.or(kwargs.get::<Option<bool>>("sort_keys")?).unwrap_or(false);
    kwargs.assert_all_used()?;
    let indent = match indent {
        None => None,
        Some(text) if text.as_str().is_some() => text.as_str().map(str::to_owned),
        Some(count) => Some(" ".repeat(i64::try_from(count)?.clamp(0, 1000) as usize)),
    };
    let (item, key) = match separators {
        Some(pair) => {
            let parts: Vec<Value> = pair.try_iter()?.collect();
            match parts.iter().map(|part| part.as_str()).collect::<Option<Vec<_>>>().as_deref() {
                Some([item, key]) => (item.to_string(), key.to_string()),
                _ => return Err(invalid("tojson: separators must be two strings")),
            }
        }
        None if indent.is_some() => (",".into(), ": ".into()),
        None => (", ".into(), ": ".into()),
    };
    let mut writer = JsonWriter { out: String::new(), ensure_ascii, sort_keys, indent, item, key };
    writer.value(value, 0)?;
    Ok(Value::from(writer.out))
}

fn pick(value: Option<Value>, kwargs: &Kwargs, name: &str) -> Result<Option<Value>, Error> {
    let value = value.or(kwargs.get::<Option<Value>>(name)?);
    Ok(value.filter(|value| !value.is_none() && !value.is_undefined()))
}

struct JsonWriter {
    out: String,
    ensure_ascii: bool,
    sort_keys: bool,
    indent: Option<String>,
    item: String,
    key: String,
}

impl JsonWriter {
    fn value(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        if depth > MAX_DEPTH {
            return Err(invalid("tojson: the value is nested too deeply"));
        }
        match value.kind() {
            ValueKind::None => self.out.push_str("null"),
            ValueKind::Bool => self.out.push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number if value.is_integer() => self.out.push_str(&value.to_string()),
            ValueKind::Number => self.out.push_str(&json_float(f64::try_from(value.clone())?)),
            ValueKind::String => self.string(value.as_str().unwrap_or_default()),
            ValueKind::Seq | ValueKind::Iterable => {
                let items: Vec<Value> = value.try_iter()?.collect();
                self.container('[', ']', items.len(), depth, |this, i| this.value(&items[i], depth + 1))?;
            }
            ValueKind::Map => {
                let mut pairs = Vec::new();
                for key in value.try_iter()? {
                    pairs.push((json_key(&key)?, value.get_item(&key)?));
                }
                if self.sort_keys {
                    pairs.sort_by(|a, b| a.0.cmp(&b.0));
                }
                self.container('{', '}', pairs.len(), depth, |this, i| {
                    this.string(&pairs[i].0);
                    let separator = this.key.clone();
                    this.out.push_str(&separator);
                    this.value(&pairs[i].1, depth + 1)
                })?;
            }
            kind => return Err(invalid(format!("tojson: a value of type {kind} has no JSON form"))),
        }
        Ok(())
    }

    fn container(
        &mut self,
        open: char,
        close: char,
        count: usize,
        depth: usize,
        mut item: impl FnMut(&mut Self, usize) -> Result<(), Error>,
    ) -> Result<(), Error> {
        self.out.push(open);
        for i in 0..count {
            if i > 0 {
                let separator = self.item.clone();
                self.out.push_str(&separator);
            }
            self.new_line(depth + 1);
            item(self, i)?;
        }
        if count > 0 {
            self.new_line(depth);
        }
        self.out.push(close);
        Ok(())
    }

    fn new_line(&mut self, depth: usize) {
        if let Some(indent) = &self.indent {
            let text = format!("\n{}", indent.repeat(depth));
            self.out.push_str(&text);
        }
    }

    fn string(&mut self, text: &str) {
        self.out.push('"');
        for c in text.chars() {
            match c {
                '"' => self.out.push_str("\\\""),
                '\\' => self.out.push_str("\\\\"),
                '\n' => self.out.push_str("\\n"),
                '\r' => self.out.push_str("\\r"),
                '\t' => self.out.push_str("\\t"),
                '\u{8}' => self.out.push_str("\\b"),
                '\u{c}' => self.out.push_str("\\f"),
                c if (c as u32) < 0x20 || (self.ensure_ascii && !c.is_ascii()) => {
                    let mut units = [0u16; 2];
                    for unit in c.encode_utf16(&mut units) {
                        self.out.push_str(&format!("\\u{unit:04x}"));
                    }
                }
                c => self.out.push(c),
            }
        }
        self.out.push('"');
    }
}

fn json_key(key: &Value) -> Result<String, Error> {
    Ok(match key.kind() {
        ValueKind::String => key.as_str().unwrap_or_default().to_owned(),
        ValueKind::None => "null".into(),
        ValueKind::Bool => if key.is_true() { "true" } else { "false" }.into(),
        ValueKind::Number if key.is_integer() => key.to_string(),
        ValueKind::Number => json_float(f64::try_from(key.clone())?),
        kind => return Err(invalid(format!("tojson: keys cannot be of type {kind}"))),
    })
}

/// Python's repr of a float: the shortest digits that read back, with an exponent from 1e16 and below 1e-4.
fn json_float(value: f64) -> String {
    if value.is_nan() {
        return "NaN".into();
    }
    if value.is_infinite() {
        return if value > 0.0 { "Infinity" } else { "-Infinity" }.into();
    }
    let text = format!("{value:?}");
    match text.split_once('e') {
        Some((digits, exponent)) => {
            let exponent: i32 = exponent.parse().unwrap_or(0);
            format!("{}e{exponent:+03}", digits.strip_suffix(".0").unwrap_or(digits))
        }
        None => text,
    }
}

/// JSON as a template sees it.
pub fn from_json(json: &Json) -> Value {
    match json {
        Json::Null => Value::from(()),
        Json::Bool(value) => Value::from(*value),
        Json::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(value), _) => Value::from(value),
            (None, Some(value)) => Value::from(value),
            _ => Value::from(number.as_f64().unwrap_or(f64::NAN)),
        },
        Json::String(text) => Value::from(text.as_str()),
        Json::Array(items) => Value::from(items.iter().map(from_json).collect::<Vec<_>>()),
        Json::Object(fields) => Value::from_pairs(fields.iter().map(|(key, value)| (key.as_str(), from_json(value)))),
    }
}

/// `format` by the C library's strftime for a local time: now, or what `fixed` says (`2024-07-26`, `2024-07-26T10:00:00`).
pub fn strftime(format: &str, fixed: Option<&str>) -> Result<String, Error> {
    if format.is_empty() {
        return Ok(String::new());
    }
    let format = std::ffi::CString::new(format).map_err(|_| invalid("strftime_now: the format has a NUL"))?;
    // SAFETY: tm is plain data; localtime_r, timegm and strftime get valid pointers and sizes.
    unsafe {
        let mut tm: libc::tm = std::mem::zeroed();
        match fixed {
            None => {
                let now = libc::time(std::ptr::null_mut());
                libc::localtime_r(&now, &mut tm);
            }
            Some(text) => {
                let wrong = || invalid(format!("strftime_now: '{text}' is no date like 2024-07-26 or 2024-07-26T10:00:00"));
                let numbers: Option<Vec<i32>> = text.split(['-', 'T', ' ', ':']).map(|part| part.parse().ok()).collect();
                let numbers = numbers.ok_or_else(wrong)?;
                let (date, time) = match numbers.len() {
                    3 => (&numbers[..3], [0, 0, 0]),
                    6 => (&numbers[..3], [numbers[3], numbers[4], numbers[5]]),
                    _ => return Err(wrong()),
                };
                if !(1..=9999).contains(&date[0]) || !(1..=12).contains(&date[1]) || !(1..=31).contains(&date[2]) {
                    return Err(wrong());
                }
                (tm.tm_year, tm.tm_mon, tm.tm_mday) = (date[0] - 1900, date[1] - 1, date[2]);
                [tm.tm_hour, tm.tm_min, tm.tm_sec] = time;
                libc::timegm(&mut tm);
            }
        }
        let mut buffer = vec![0u8; 4096];
        let length = libc::strftime(buffer.as_mut_ptr().cast(), buffer.len(), format.as_ptr(), &tm);
        buffer.truncate(length);
        String::from_utf8(buffer).map_err(|_| invalid("strftime_now: the result is not UTF-8"))
    }
}

/// Jinja's `is iterable`: in minijinja None is, too.
pub fn is_iterable(value: &Value) -> bool {
    value.is_undefined() || (!value.is_none() && value.try_iter().is_ok())
}

/// Jinja's `is sequence`: what has a length and items by key, so text and tables too.
pub fn is_sequence(value: &Value) -> bool {
    value.is_undefined() || matches!(value.kind(), ValueKind::String | ValueKind::Seq | ValueKind::Map | ValueKind::Iterable)
}

/// Methods of Python's str, dict and list: minijinja-contrib's, then the rest that templates use.
pub fn method(state: &mut State, value: &Value, name: &str, args: &[Value]) -> Result<Value, Error> {
    if let Some(text) = value.as_str() {
        match name {
            "removeprefix" | "removesuffix" => {
                let (part,): (&str,) = from_args(args)?;
                let cut = if name == "removeprefix" { text.strip_prefix(part) } else { text.strip_suffix(part) };
                return Ok(Value::from(cut.unwrap_or(text)));
            }
            "partition" | "rpartition" => {
                let (separator,): (&str,) = from_args(args)?;
                if separator.is_empty() {
                    return Err(invalid("empty separator"));
                }
                let split = if name == "partition" { text.split_once(separator) } else { text.rsplit_once(separator) };
                let parts = match split {
                    Some((before, after)) => [before, separator, after],
                    None if name == "partition" => [text, "", ""],
                    None => ["", "", text],
                };
                return Ok(Value::from_iter(parts));
            }
            "rsplit" => {
                let (separator, most): (Option<&str>, Option<i64>) = from_args(args)?;
                let most = most.filter(|most| *most >= 0).map_or(usize::MAX, |most| most as usize);
                let mut parts: Vec<&str> = match separator {
                    Some("") => return Err(invalid("empty separator")),
                    Some(separator) => text.rsplitn(most.saturating_add(1), separator).collect(),
                    None if most == usize::MAX => text.split_whitespace().rev().collect(),
                    None => return Err(invalid("rsplit by whitespace with a count is not supported")),
                };
                parts.reverse();
                return Ok(Value::from_iter(parts));
            }
            "index" => {
                let (part,): (&str,) = from_args(args)?;
                let at = text.find(part).ok_or_else(|| invalid("substring not found"))?;
                return Ok(Value::from(text[..at].chars().count()));
            }
            _ => {}
        }
    } else if name == "copy" && args.is_empty() && matches!(value.kind(), ValueKind::Map | ValueKind::Seq) {
        // Values cannot be changed in a template, so a copy is the value.
        return Ok(value.clone());
    }
    minijinja_contrib::pycompat::unknown_method_callback(state, value, name, args)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_are_pythons() {
        let cases = [
            (1.0, "1.0"),
            (0.1, "0.1"),
            (1e16, "1e+16"),
            (1e-5, "1e-05"),
            (1.5e300, "1.5e+300"),
            (123456789.25, "123456789.25"),
            (-0.0, "-0.0"),
            (1e15, "1000000000000000.0"),
            (0.0001, "0.0001"),
            (f64::NAN, "NaN"),
            (f64::NEG_INFINITY, "-Infinity"),
        ];
        for (value, text) in cases {
            assert_eq!(json_float(value), text);
        }
    }

    #[test]
    fn fixed_dates_are_formatted() {
        assert_eq!(strftime("%d %b %Y, %A %j", Some("2024-07-26")).unwrap(), "26 Jul 2024, Friday 208");
        assert_eq!(strftime("%H:%M:%S", Some("2024-07-26T01:02:03")).unwrap(), "01:02:03");
        assert!(strftime("%d", Some("yesterday")).is_err());
        assert!(strftime("%d", Some("2024-13-01")).is_err());
        assert_eq!(strftime("%Y", None).unwrap().len(), 4);
    }
}
