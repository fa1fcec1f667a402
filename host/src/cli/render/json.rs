//! JSON for people: what fits on a line stays on it, so that a list of points is not a page.

use serde_json::Value;

/// Longest line that a value is kept on.
const WIDTH: usize = 100;

/// A value, indented by two blanks where it does not fit on a line.
pub fn pretty(value: &Value) -> String {
    let mut out = String::new();
    write(value, 0, 0, &mut out);
    out
}

/// `before`: what stands on the line already, besides the indent. Parsed values are at most 128 deep, so recursion is bounded.
fn write(value: &Value, indent: usize, before: usize, out: &mut String) {
    let room = WIDTH.saturating_sub(indent + before);
    if let Some(line) = on_a_line(value, room) {
        out.push_str(&line);
        return;
    }
    let pad = " ".repeat(indent + 2);
    match value {
        Value::Array(items) => {
            out.push('[');
            for (at, item) in items.iter().enumerate() {
                out.push_str(if at == 0 { "\n" } else { ",\n" });
                out.push_str(&pad);
                write(item, indent + 2, 0, out);
            }
            out.push_str(&format!("\n{}]", " ".repeat(indent)));
        }
        Value::Object(map) => {
            out.push('{');
            for (at, (key, item)) in map.iter().enumerate() {
                let key = format!("{}: ", Value::from(key.as_str()));
                out.push_str(if at == 0 { "\n" } else { ",\n" });
                out.push_str(&format!("{pad}{key}"));
                write(item, indent + 2, key.len(), out);
            }
            out.push_str(&format!("\n{}}}", " ".repeat(indent)));
        }
        scalar => out.push_str(&scalar.to_string()),
    }
}

/// The value on one line of at most `room` bytes; gives up as soon as it is longer.
fn on_a_line(value: &Value, room: usize) -> Option<String> {
    let mut line = String::new();
    match value {
        Value::Array(items) => {
            line.push('[');
            for (at, item) in items.iter().enumerate() {
                line.push_str(if at == 0 { "" } else { ", " });
                line.push_str(&on_a_line(item, room.checked_sub(line.len())?)?);
            }
            line.push(']');
        }
        Value::Object(map) => {
            line.push('{');
            for (at, (key, item)) in map.iter().enumerate() {
                line.push_str(if at == 0 { "" } else { ", " });
                line.push_str(&format!("{}: ", Value::from(key.as_str())));
                line.push_str(&on_a_line(item, room.checked_sub(line.len())?)?);
            }
            line.push('}');
        }
        scalar => line = scalar.to_string(),
    }
    (line.len() <= room).then_some(line)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_fits_stays_on_its_line() {
        let value = json!({"box": [[1.0, 2.0], [3.0, 4.0]], "text": "t".repeat(90), "none": []});
        let text = pretty(&value);
        assert_eq!(text.lines().count(), 5, "{text}");
        assert!(text.contains("  \"box\": [[1.0, 2.0], [3.0, 4.0]],\n"), "{text}");
        assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), value);
        assert_eq!(pretty(&json!({"a": 1})), r#"{"a": 1}"#);
    }

    #[test]
    fn a_long_list_breaks() {
        let value: Value = (0..100).collect();
        assert_eq!(pretty(&value).lines().count(), 102);
    }
}
