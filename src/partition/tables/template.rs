//! What tables of pieces are called: a template, and the name that each piece makes of it. Pure.

use std::collections::BTreeMap;
use std::fmt;

use sha2::{Digest, Sha256};

use super::REGISTRY;
use crate::engine::text::quoted_name;
use crate::error::{Error, Result};
use crate::partition::lake::hexadecimal;

/// Where the name of the piece goes.
const HOLE: &str = "{piece}";
/// Bytes of a table's name that come from a piece.
const LONGEST: usize = 120;
/// Hexadecimal digits that tell names apart which would be one.
const DIGITS: usize = 16;

/// Names of tables, one for each piece; perhaps with their schema and database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    /// Schema, or database and schema, or a name that may be either.
    pub(super) above: Vec<String>,
    /// The last name, with [`HOLE`] in it.
    pub(super) name: String,
}

impl Template {
    /// Whether `text` is meant for one.
    pub fn is_meant(text: &str) -> bool {
        text.contains(HOLE)
    }

    /// Reads `events_{piece}`, `archive.events_{piece}` or `other.main.events_{piece}`; a name may be quoted as in SQL.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) where it is none.
    pub fn parse(text: &str) -> Result<Self> {
        let refused = |what: &str| Error::invalid("into", format_args!("{text:?}"), what);
        let accepted = "for tables give events_{piece}, with schema and database in front if wanted, parted by dots, and in \
                        double quotes what is not letters, digits and spaces; a directory's name has no {piece} in it";
        let mut names = parts(text.trim()).ok_or_else(|| refused(accepted))?;
        let name = names.pop().unwrap_or_default();
        let holes = name.matches(HOLE).count();
        if names.len() > 2 || holes != 1 || names.iter().any(|name| name.contains(HOLE)) {
            return Err(refused(accepted));
        }
        if name.len() > LONGEST + HOLE.len() {
            return Err(refused("that is too long for the names of tables"));
        }
        Ok(Template { above: names, name })
    }

    /// The name of each piece's table. No two are the same, also where case does not count; the same pieces have the same
    /// names each time. What is no letter, digit or underscore becomes an underscore. A name that others would have, too, or
    /// a long one, ends with a hash of the piece's name.
    pub(super) fn names(&self, pieces: &[&str]) -> Vec<String> {
        let plain: Vec<String> = pieces.iter().map(|piece| harmless(piece)).collect();
        let mut hashed: Vec<bool> = pieces
            .iter()
            .zip(&plain)
            .map(|(piece, plain)| piece.is_empty() || plain.len() > LONGEST)
            .collect();
        loop {
            let names: Vec<String> = pieces
                .iter()
                .zip(&plain)
                .zip(&hashed)
                .map(|((piece, plain), hashed)| {
                    let filled = if *hashed {
                        told_apart(piece, plain)
                    } else {
                        plain.clone()
                    };
                    self.name.replace(HOLE, &filled)
                })
                .collect();
            let mut taken: BTreeMap<String, Vec<usize>> = BTreeMap::new();
            for (place, name) in names.iter().enumerate() {
                taken.entry(name.to_lowercase()).or_default().push(place);
            }
            let mut is_done = true;
            for (name, places) in taken {
                if places.len() > 1 || name == REGISTRY {
                    for place in places {
                        is_done &= hashed[place];
                        hashed[place] = true;
                    }
                }
            }
            if is_done {
                return names;
            }
        }
    }

    /// Whether a table could be one of a piece's, by its name. One of nothing but the piece says that of none.
    pub(super) fn matches(&self, table: &str) -> bool {
        let (table, name) = (table.to_lowercase(), self.name.to_lowercase());
        let (before, after) = name.split_once(HOLE).unwrap_or((&name, ""));
        name != HOLE
            && table.len() >= before.len() + after.len()
            && table.starts_with(before)
            && table.ends_with(after)
    }
}

impl fmt::Display for Template {
    /// As [`Template::parse`] reads it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<String> = self
            .above
            .iter()
            .chain([&self.name])
            .map(|name| shown(name))
            .collect();
        f.write_str(&names.join("."))
    }
}

/// A template with the database and the schema that it is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Home {
    pub(super) database: String,
    pub(super) schema: String,
    pub(super) template: Template,
}

impl Home {
    /// The template that means this place wherever it is used.
    pub(super) fn as_template(&self) -> Template {
        Template {
            above: vec![self.database.clone(), self.schema.clone()],
            name: self.template.name.clone(),
        }
    }

    /// The schema, as SQL.
    pub(super) fn place(&self) -> String {
        format!("{}.{}", quoted_name(&self.database), quoted_name(&self.schema))
    }

    /// A table there, as SQL.
    pub(in crate::partition) fn table(&self, name: &str) -> String {
        format!("{}.{}", self.place(), quoted_name(name))
    }
}

impl fmt::Display for Home {
    /// As [`Template::parse`] reads it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = [&self.database, &self.schema, &self.template.name].map(|name| shown(name));
        f.write_str(&names.join("."))
    }
}

/// A name as a template has it.
fn shown(name: &str) -> String {
    let is_plain = name
        .replace(HOLE, "")
        .chars()
        .all(|letter| letter.is_alphanumeric() || letter == '_');
    if is_plain && !name.is_empty() {
        name.to_owned()
    } else {
        quoted_name(name)
    }
}

/// The names that are parted by dots; none where they are none.
fn parts(text: &str) -> Option<Vec<String>> {
    let mut names = Vec::new();
    let mut rest = text;
    loop {
        let name = if let Some(quoted) = rest.strip_prefix('"') {
            let mut name = String::new();
            let mut tail = quoted;
            loop {
                let end = tail.find('"')?;
                name.push_str(&tail[..end]);
                tail = &tail[end + 1..];
                match tail.strip_prefix('"') {
                    Some(more) => {
                        name.push('"');
                        tail = more;
                    }
                    None => break,
                }
            }
            rest = tail;
            name
        } else {
            let end = rest.find('.').unwrap_or(rest.len());
            let name = &rest[..end];
            rest = &rest[end..];
            let bare = name.replace(HOLE, "");
            let is_plain = bare
                .chars()
                .all(|letter| letter.is_alphanumeric() || letter == '_' || letter == ' ');
            if !is_plain {
                return None;
            }
            name.to_owned()
        };
        if name.trim().is_empty() || name.chars().any(char::is_control) {
            return None;
        }
        names.push(name);
        if rest.is_empty() {
            return Some(names);
        }
        rest = rest.strip_prefix('.')?;
    }
}

fn harmless(piece: &str) -> String {
    piece
        .chars()
        .map(|letter| if letter.is_alphanumeric() { letter } else { '_' })
        .collect()
}

/// The name with a hash of what it stands for.
fn told_apart(piece: &str, plain: &str) -> String {
    let hash = hexadecimal(&Sha256::digest(piece.as_bytes()));
    let mut length = LONGEST.min(plain.len());
    while !plain.is_char_boundary(length) {
        length -= 1;
    }
    format!("{}_{}", &plain[..length], &hash[..DIGITS])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn template(text: &str) -> Template {
        Template::parse(text).unwrap()
    }

    #[test]
    fn templates_are_told_from_what_is_none() {
        for (text, above, name) in [
            ("events_{piece}", vec![], "events_{piece}"),
            ("{piece}", vec![], "{piece}"),
            ("archive.events_{piece}", vec!["archive"], "events_{piece}"),
            (" other.main.e {piece} x ", vec!["other", "main"], "e {piece} x"),
            (r#""a.b"."it's ""{piece}""""#, vec!["a.b"], r#"it's "{piece}""#),
        ] {
            let read = template(text);
            assert_eq!(
                (read.above, read.name.as_str()),
                (above.iter().map(|name| (*name).to_owned()).collect(), name)
            );
        }
        for text in [
            "events",
            "",
            "lake/{piece}",
            "lake/{piece}/",
            "{piece}.events",
            "a_{piece}_{piece}",
            "a.b.c.e_{piece}",
            ".e_{piece}",
            "a..e_{piece}",
            "\"e_{piece}",
            "e_{piece};drop table t",
            "e\0_{piece}",
            "\"e\n_{piece}\"",
            "e-{piece}",
        ] {
            assert!(Template::parse(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn names_are_plain_where_they_can_be() {
        let template = template("events_{piece}");
        assert_eq!(
            template.names(&["2024-01", "null", "DE/03", "日本"]),
            ["events_2024_01", "events_null", "events_DE_03", "events_日本"]
        );
        let names = template.names(&["a", "A", "b"]);
        assert!(
            names[0].starts_with("events_a_") && names[1].starts_with("events_A_") && names[2] == "events_b"
        );
        assert_ne!(template.names(&[""])[0], "events_");
        // The table that tells of the pieces is none of them.
        assert_ne!(
            self::template("{piece}").names(&["duckward partitionings"])[0],
            REGISTRY
        );
    }

    proptest! {
        #[test]
        fn no_two_names_are_one(mut pieces in prop::collection::vec("[aA_.\"é É-]{0,5}|x{130}y?", 1..40)) {
            pieces.sort();
            pieces.dedup();
            let pieces: Vec<&str> = pieces.iter().map(String::as_str).collect();
            let template = template("t_{piece}_");
            let names = template.names(&pieces);
            let small: std::collections::BTreeSet<String> = names.iter().map(|name| name.to_lowercase()).collect();
            prop_assert_eq!(small.len(), pieces.len());
            prop_assert!(names.iter().all(|name| template.matches(name)));
            // Once more with a hash of one as the name of another.
            let mut more: Vec<&str> = pieces.clone();
            let taken = names[0].trim_start_matches("t_").trim_end_matches('_').to_owned();
            if !pieces.contains(&taken.as_str()) {
                more.push(&taken);
                let names = template.names(&more);
                let small: std::collections::BTreeSet<String> = names.iter().map(|name| name.to_lowercase()).collect();
                prop_assert_eq!(small.len(), more.len());
            }
        }

        #[test]
        fn a_place_is_read_as_it_is_written(database in "[a-z .\"]{1,6}", schema in "\\PC{1,6}", name in "[a-z\".é]{0,6}") {
            prop_assume!(!database.trim().is_empty() && !schema.trim().is_empty());
            let template = Template { above: Vec::new(), name: format!("{name}{HOLE}") };
            let home = Home { database: database.clone(), schema: schema.clone(), template };
            prop_assume!(!schema.contains(HOLE));
            let read = Template::parse(&home.to_string()).unwrap();
            prop_assert_eq!(read.above, vec![database, schema]);
            prop_assert_eq!(read.name, format!("{name}{HOLE}"));
        }
    }
}
