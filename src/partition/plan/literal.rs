//! Values as SQL: printed so that nothing is lost, and written so that they mean the same in every session. Pure.

use crate::engine::text::quoted;

/// A moment's type, whose text depends on the session's zone.
const ZONED: &str = "TIMESTAMP WITH TIME ZONE";

/// The expression that prints `value`, of type `type_name`, as the text that [`literal`] takes.
pub(super) fn printed(value: &str, type_name: &str) -> String {
    if type_name == ZONED {
        // In UTC, without a zone; infinite ones have no microseconds.
        return format!(
            "CASE WHEN isfinite({value}) THEN make_timestamp(epoch_us({value}))::VARCHAR \
             ELSE {value}::VARCHAR END"
        );
    }
    format!("{value}::VARCHAR")
}

/// The value that was printed as `text`, as SQL.
pub(super) fn literal(text: &str, type_name: &str) -> String {
    if type_name == ZONED {
        let zone = if text.ends_with("infinity") { "" } else { "+00" };
        return format!("'{text}{zone}'::TIMESTAMPTZ");
    }
    if type_name == "VARCHAR" {
        // Control characters are written as bytes: a plan is read by people, and some tools end a text at a zero.
        if text.chars().any(char::is_control) {
            let bytes: String = text.bytes().map(|byte| format!("\\x{byte:02X}")).collect();
            return format!("decode('{bytes}'::BLOB)");
        }
        return quoted(text);
    }
    format!("{}::{type_name}", quoted(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_written_so_that_they_mean_one_thing() {
        for (text, type_name, expected) in [
            ("5", "INTEGER", "'5'::INTEGER"),
            ("it's", "VARCHAR", "'it''s'"),
            ("a\0b", "VARCHAR", "decode('\\x61\\x00\\x62'::BLOB)"),
            (
                "2024-01-01 00:00:00",
                ZONED,
                "'2024-01-01 00:00:00+00'::TIMESTAMPTZ",
            ),
            ("-infinity", ZONED, "'-infinity'::TIMESTAMPTZ"),
            ("a", "ENUM('a', 'b')", "'a'::ENUM('a', 'b')"),
        ] {
            assert_eq!(literal(text, type_name), expected);
        }
    }
}
