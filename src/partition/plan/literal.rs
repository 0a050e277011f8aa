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

/// The values that were printed as `texts`, as SQL for a list. It is parted from one text: ten thousand expressions would take
/// DuckDB seconds, and hundreds of megabytes, to bind.
pub(super) fn list(texts: &[String], type_name: &str) -> String {
    let all: Vec<String> = texts
        .iter()
        .map(|text| match type_name {
            ZONED if !text.ends_with("infinity") => format!("{text}+00"),
            _ => text.clone(),
        })
        .collect();
    // A comma, or what is in no text.
    let parting = (0u64..)
        .map(|number| {
            if number == 0 {
                ",".to_owned()
            } else {
                format!(",{number},")
            }
        })
        .find(|parting| all.join(parting).split(parting.as_str()).eq(&all))
        .unwrap_or_default();
    let type_name = if type_name == ZONED {
        "TIMESTAMPTZ"
    } else {
        type_name
    };
    format!(
        "string_split({}, {})::{type_name}[]",
        literal(&all.join(&parting), "VARCHAR"),
        quoted(&parting)
    )
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

    #[test]
    fn a_list_is_parted_by_what_is_in_no_value() {
        for (texts, type_name, expected) in [
            (["1", "2"], "INTEGER", "string_split('1,2', ',')::INTEGER[]"),
            (
                ["a,b", "c"],
                "VARCHAR",
                "string_split('a,b,1,c', ',1,')::VARCHAR[]",
            ),
            (
                ["a,1", "b,"],
                "VARCHAR",
                "string_split('a,1,2,b,', ',2,')::VARCHAR[]",
            ),
            (
                ["2024-01-01 00:00:00", "infinity"],
                ZONED,
                "string_split('2024-01-01 00:00:00+00,infinity', ',')::TIMESTAMPTZ[]",
            ),
        ] {
            assert_eq!(list(&texts.map(str::to_owned), type_name), expected);
        }
    }
}
