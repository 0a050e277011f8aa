//! The text of a statement, as far as DuckDB's parse does not cover it: tokens, and where the query of an INSERT, a CREATE
//! TABLE AS or a COPY is. Whatever is found here DuckDB parses afterwards, so a mistake is an error and never another
//! meaning. Pure.

use std::ops::Range;

/// What a token is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Token {
    /// Space or a comment.
    Gap,
    /// A string or a number.
    Literal,
    /// A word or a name without quotes.
    Word,
    /// A quoted name, or one character.
    Exact,
}

/// The tokens of `sql`, with where they are.
pub fn tokens(sql: &str) -> impl Iterator<Item = (Token, Range<usize>)> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let rest = &sql[at..];
        let (token, length) = next_token(rest, rest.chars().next()?);
        let range = at..at + length;
        at = range.end;
        Some((token, range))
    })
}

/// The words of `sql`, outside of literals, quoted names and comments.
pub fn words(sql: &str) -> impl Iterator<Item = &str> {
    tokens(sql).filter_map(|(token, range)| (token == Token::Word).then(|| &sql[range]))
}

/// The kind and the length of the token that `rest`, which begins with `first`, begins with.
fn next_token(rest: &str, first: char) -> (Token, usize) {
    let run = |accept: fn(char) -> bool| rest.find(|c: char| !accept(c)).unwrap_or(rest.len());
    let through = |end: &str, from: usize| {
        rest.get(from..)
            .and_then(|tail| tail.find(end))
            .map_or(rest.len(), |at| from + at + end.len())
    };
    if first.is_whitespace() {
        (Token::Gap, run(char::is_whitespace))
    } else if rest.starts_with("--") {
        (Token::Gap, through("\n", 2))
    } else if rest.starts_with("/*") {
        (Token::Gap, through("*/", 2))
    } else if first == '\'' {
        (Token::Literal, through("'", 1))
    } else if first == '"' {
        (Token::Exact, through("\"", 1))
    } else if first.is_ascii_digit() {
        (
            Token::Literal,
            run(|c| c.is_ascii_alphanumeric() || c == '.' || c == '_'),
        )
    } else if first.is_alphanumeric() || first == '_' {
        (Token::Word, run(|c| c.is_alphanumeric() || c == '_'))
    } else {
        (Token::Exact, first.len_utf8())
    }
}

/// Where the query of `sql` is, if it is a SELECT, or an INSERT, CREATE TABLE AS or COPY that has one.
pub fn query_of(sql: &str) -> Option<Range<usize>> {
    let mut depth = 0usize;
    let all: Vec<(Token, Range<usize>, usize)> = tokens(sql)
        .filter(|(token, _)| *token != Token::Gap)
        .map(|(token, range)| {
            let text = &sql[range.clone()];
            if text == ")" {
                depth = depth.saturating_sub(1);
            }
            let at = (token, range, depth);
            if text == "(" {
                depth += 1;
            }
            at
        })
        .collect();
    let is = |index: usize, word: &str| {
        all.get(index).is_some_and(|(token, range, _)| {
            *token == Token::Word && sql[range.clone()].eq_ignore_ascii_case(word)
        })
    };
    // A semicolon at the end is not of the query.
    let end = all
        .iter()
        .rposition(|(_, range, _)| &sql[range.clone()] != ";")
        .map_or(0, |last| last + 1);
    if all[..end].iter().any(|(_, range, _)| &sql[range.clone()] == ";") {
        return None;
    }
    let outside = |from: usize, wanted: &dyn Fn(usize) -> bool| {
        (from..end).find(|index| all[*index].2 == 0 && wanted(*index))
    };
    let part = |from: usize, to: usize| (from < to).then(|| all[from].1.start..all[to - 1].1.end);
    let opens = |index: usize| {
        all.get(index)
            .is_some_and(|(_, range, _)| &sql[range.clone()] == "(")
    };
    let begins_query = |index: usize| is(index, "select") || is(index, "with") || is(index, "from");
    if begins_query(0)
        || all
            .first()
            .is_some_and(|(_, range, _)| &sql[range.clone()] == "(")
    {
        return part(0, end);
    }
    if is(0, "insert") {
        let bracketed = |index: usize| opens(index) && (begins_query(index + 1) || opens(index + 1));
        let from = outside(1, &|index| begins_query(index) || bracketed(index))?;
        let to = outside(from, &|index| {
            is(index, "returning") || (is(index, "on") && is(index + 1, "conflict"))
        });
        return part(from, to.unwrap_or(end));
    }
    if is(0, "create") {
        let from = outside(1, &|index| is(index, "as"))? + 1;
        let to = outside(from, &|index| {
            let no = usize::from(is(index + 1, "no"));
            is(index, "with") && is(index + no + 1, "data") && index + no + 2 == end
        });
        let is_table = (1..from).any(|index| is(index, "table"));
        let is_other = (1..from).any(|index| {
            ["view", "macro", "function", "type", "index"]
                .iter()
                .any(|word| is(index, word))
        });
        return (is_table && !is_other).then(|| part(from, to.unwrap_or(end)))?;
    }
    if is(0, "copy") {
        let (_, open, _) = all.get(1)?;
        if &sql[open.clone()] != "(" {
            return None;
        }
        let close = (2..end).find(|index| all[*index].2 == 0 && &sql[all[*index].1.clone()] == ")")?;
        return part(2, close);
    }
    None
}

/// Whether `sql` is a SELECT of literals alone, with or without names: nothing of it needs binding, and it cannot fail.
pub fn selects_literals(sql: &str) -> bool {
    let mut parts = tokens(sql).filter(|(token, _)| *token != Token::Gap);
    let mut next = || {
        parts
            .next()
            .map(|(token, range)| (token, &sql[range.clone()], range))
    };
    let is_word = |token, text: &str, word: &str| token == Token::Word && text.eq_ignore_ascii_case(word);
    if !next().is_some_and(|(token, text, _)| is_word(token, text, "select")) {
        return false;
    }
    loop {
        let Some((token, mut text, mut range)) = next() else {
            return false;
        };
        let mut literal = is_plain(text, token);
        if text == "-" {
            let Some((token, number, at)) = next() else {
                return false;
            };
            literal = token == Token::Literal && !number.starts_with('\'') && is_plain(number, token);
            (text, range) = (number, at);
        }
        if !literal {
            return false;
        }
        let mut after = next();
        // A string right behind a string is the same string.
        if text.starts_with('\'') && sql[range.end..].starts_with('\'') {
            return false;
        }
        if after
            .as_ref()
            .is_some_and(|(token, text, _)| is_word(*token, text, "as"))
        {
            let named = next().is_some_and(|(token, text, _)| {
                token == Token::Word
                    && text
                        .bytes()
                        .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
            });
            if !named {
                return false;
            }
            after = next();
        }
        match after {
            None => return true,
            Some((_, ",", _)) => {}
            Some(_) => return false,
        }
    }
}

/// Whether a token is a literal that DuckDB takes as it is, whatever its settings.
fn is_plain(text: &str, token: Token) -> bool {
    /// Digits that fit into 64 bits.
    const DIGITS: usize = 18;
    match token {
        Token::Word => ["true", "false", "null"]
            .iter()
            .any(|word| text.eq_ignore_ascii_case(word)),
        Token::Literal if text.starts_with('\'') => {
            text.len() > 1 && text.ends_with('\'') && !text.chars().any(char::is_control)
        }
        Token::Literal => {
            let (whole, part) = text.split_once('.').unwrap_or((text, "0"));
            text.len() <= DIGITS
                && [whole, part]
                    .iter()
                    .all(|part| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit()))
        }
        _ => false,
    }
}

/// Where the query of a CREATE VIEW is, in parentheses and with the names of its columns, if it has any, behind it.
pub fn view_query(sql: &str) -> Option<String> {
    let mut columns = None;
    let mut depth = 0usize;
    let mut open = None;
    for (token, range) in tokens(sql) {
        let text = &sql[range.clone()];
        match text {
            "(" => {
                if depth == 0 {
                    open = Some(range.start);
                }
                depth += 1;
            }
            ")" => {
                depth = depth.saturating_sub(1);
                if depth == 0 {
                    columns = open.map(|open| &sql[open..range.end]);
                }
            }
            _ if depth == 0 && token == Token::Word && text.eq_ignore_ascii_case("as") => {
                let query = sql[range.end..].trim().trim_end_matches(';');
                return Some(format!("({query}) AS duckward_view{}", columns.unwrap_or("")));
            }
            _ => {}
        }
    }
    None
}

/// `text` as a string of SQL.
pub fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// A path as a pattern of files that only that path fits: a bracket or a star in it is none.
pub fn plain_pattern(path: &str) -> String {
    path.chars()
        .map(|letter| match letter {
            '*' | '?' | '[' => format!("[{letter}]"),
            letter => letter.to_string(),
        })
        .collect()
}

/// `name` as a name of SQL.
pub fn quoted_name(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn query(sql: &str) -> Option<&str> {
        query_of(sql).map(|range| &sql[range])
    }

    #[test]
    fn the_query_is_found_in_every_statement_that_has_one() {
        for (sql, expected) in [
            ("select 1 ;", Some("select 1")),
            (
                "-- c\n WITH a AS (select 1) select * from a",
                Some("WITH a AS (select 1) select * from a"),
            ),
            (
                "insert into t (a, b) select 1, 'returning' returning a",
                Some("select 1, 'returning'"),
            ),
            (
                "insert into t by name select a from x join y on x.a = y.a on conflict do nothing",
                Some("select a from x join y on x.a = y.a"),
            ),
            (
                "create or replace temp table t as select ')' from x;",
                Some("select ')' from x"),
            ),
            ("create table t(a) as (select 1) with no data", Some("(select 1)")),
            (
                "copy (select 1, ')') to 'x.parquet' (format parquet)",
                Some("select 1, ')'"),
            ),
            ("copy t to 'x'", None),
            ("create view v as select 1", None),
            ("insert into t (select 1)", Some("(select 1)")),
            (
                "create table x as with data as (select 1) select * from data",
                Some("with data as (select 1) select * from data"),
            ),
            ("insert into t values (1)", None),
            ("select 1; select 2", None),
            ("update t set a = 1", None),
            ("", None),
        ] {
            assert_eq!(query(sql), expected, "{sql}");
        }
    }

    #[test]
    fn words_in_literals_names_and_comments_do_not_count() {
        let sql = "/* returning */ INSERT INTO \"returning\" -- returning\n VALUES ('returning it''s', 7)";
        assert_eq!(words(sql).collect::<Vec<_>>(), ["INSERT", "INTO", "VALUES"]);
    }

    #[test]
    fn only_literals_need_no_binding() {
        for sql in [
            "select 1",
            "SELECT 1 AS one, 'a' as b, null, -2.5, true /* c */",
            " select '' ",
            "select 'from t'",
        ] {
            assert!(selects_literals(sql), "{sql}");
        }
        for sql in [
            "",
            "select",
            "select 1,",
            "select 1 +",
            "select 1 + 1",
            "select *",
            "select a",
            "select 1 from t",
            "select now()",
            "select current_date",
            "select 1 as",
            "select 1 as \"a\"",
            "select 1 as a b",
            "select 1 a",
            "select 'a",
            "select 'it''s'",
            "select 'a' 'b'",
            "select - - 1",
            "select -'1'",
            "select 1e400",
            "select 99999999999999999999",
            "select 1..2",
            "select 1; select 2",
            "select $1",
            "select ?",
            "select 'a\0b'",
            "select 1 union select 2",
            "select true as x from t",
            "with a as (select 1) select 1",
        ] {
            assert!(!selects_literals(sql), "{sql}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_to_its_end(text in ".{0,200}") {
            let length: usize = tokens(&text).map(|(_, range)| range.len()).sum();
            prop_assert_eq!(length, text.len());
            let _ = query_of(&text);
            let _ = selects_literals(&text);
        }
    }
}
