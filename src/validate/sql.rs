//! The statements of a comparison. Pure.

use crate::engine::source::Source;
use crate::engine::text::quoted_name;

/// A column that both sides have, and how its values are made comparable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Shared {
    pub left: String,
    pub right: String,
    pub left_type: String,
    pub right_type: String,
}

/// Types among which DuckDB finds a common one that keeps every value.
pub(super) const INTEGERS: [&str; 9] = [
    "TINYINT",
    "SMALLINT",
    "INTEGER",
    "BIGINT",
    "HUGEINT",
    "UTINYINT",
    "USMALLINT",
    "UINTEGER",
    "UBIGINT",
];
/// Types all of whose values a DOUBLE keeps.
const IN_DOUBLE: [&str; 8] = [
    "TINYINT",
    "SMALLINT",
    "INTEGER",
    "UTINYINT",
    "USMALLINT",
    "UINTEGER",
    "FLOAT",
    "DOUBLE",
];

/// What is put after a name so that values of these types are comparable, and none of them loses anything. DuckDB 2.0 hashes
/// what a collation makes of a text, so texts are taken without one.
pub(super) fn comparable(types: &[&str]) -> &'static str {
    let all = |known: &[&str]| types.iter().all(|kind| known.contains(kind));
    if types.iter().all(|kind| *kind == types[0]) {
        if types.first() == Some(&"VARCHAR") {
            " COLLATE C"
        } else {
            ""
        }
    } else if all(&INTEGERS) {
        ""
    } else if all(&IN_DOUBLE) {
        "::DOUBLE"
    } else {
        "::VARCHAR COLLATE C"
    }
}

impl Shared {
    fn made_comparable(&self) -> &'static str {
        comparable(&[&self.left_type, &self.right_type])
    }

    fn read(&self, name: &str, index: usize) -> String {
        format!("{}{} AS c{index}", quoted_name(name), self.made_comparable())
    }
}

/// Both sides in one, with the number of the side in `s` and the columns as `c0`, `c1`, ...: so they are of one moment, and
/// their values of one type.
pub(super) fn both(left: &Source, right: &Source, columns: &[Shared]) -> String {
    sides((left, ""), (right, ""), columns)
}

/// The same, with the number of each row's piece in `p`; `piece` is the column of both that has it.
pub(super) fn both_by_piece(left: &Source, right: &Source, piece: &str, columns: &[Shared]) -> String {
    let number = format!("{piece}::BIGINT AS p, ");
    sides((left, &number), (right, &number), columns)
}

/// The same, where only rows on the right have a piece in `p`, the one that they lie `at`; `w` says whether they belong to
/// another, which the column `number` says.
pub(super) fn both_placed(
    left: &Source,
    right: &Source,
    at: &str,
    number: &str,
    columns: &[Shared],
) -> String {
    let place = format!("{at}::BIGINT AS p, {number} IS DISTINCT FROM {at} AS w, ");
    sides((left, NOT_PLACED), (right, &place), columns)
}

/// The left side of that alone.
pub(super) fn left_placed(left: &Source, columns: &[Shared]) -> String {
    side(0, (left, NOT_PLACED), columns, &|column| column.left.clone())
}

/// What is read besides the columns where rows lie in no piece.
const NOT_PLACED: &str = "NULL::BIGINT AS p, false AS w, ";

/// One source alone as such a side, all of it in piece 0.
pub(super) fn alone(source: &Source, columns: &[Shared]) -> String {
    side(0, (source, "0::BIGINT AS p, "), columns, &|column| {
        column.left.clone()
    })
}

/// Both sides; each has something to read besides the columns.
fn sides(left: (&Source, &str), right: (&Source, &str), columns: &[Shared]) -> String {
    format!(
        "{} UNION ALL {}",
        side(0, left, columns, &|column| column.left.clone()),
        side(1, right, columns, &|column| column.right.clone())
    )
}

fn side(
    number: u8,
    (source, besides): (&Source, &str),
    columns: &[Shared],
    name: &dyn Fn(&Shared) -> String,
) -> String {
    let list: Vec<String> = columns
        .iter()
        .enumerate()
        .map(|(index, column)| column.read(&name(column), index))
        .collect();
    format!(
        "SELECT {number}::UTINYINT AS s, {besides}{} FROM {} AS duckward_{number}",
        list.join(", "),
        source.relation
    )
}

fn names(letter: &str, indexes: impl Iterator<Item = usize>) -> String {
    let names: Vec<String> = indexes.map(|index| format!("{letter}{index}")).collect();
    names.join(", ")
}

/// The hash of a row. Hashed once more, because sums of DuckDB's hash of several values change little when values change
/// places between rows.
fn row_hash(count: usize) -> String {
    format!("hash(hash({}))", names("c", 0..count))
}

/// For each side: rows, two sums over its rows, and of each column the values that are not NULL and the sum of the hashes of
/// all. Values are hashed once: the hashes of a row are made of those of its values.
pub(super) fn totals(both: &str, count: usize) -> String {
    summed(both, count, "")
}

/// The same for each side of each piece, the piece's number first.
pub(super) fn totals_by_piece(both: &str, count: usize) -> String {
    summed(both, count, "p, ")
}

fn summed(both: &str, count: usize, piece: &str) -> String {
    let hashes: Vec<String> = (0..count)
        .map(|index| format!("c{index}, hash(c{index}) AS h{index}"))
        .collect();
    let columns: Vec<String> = (0..count)
        .map(|index| format!(", count(c{index})::VARCHAR, sum(h{index})::VARCHAR"))
        .collect();
    let first = if piece.is_empty() { "" } else { "p::VARCHAR, " };
    format!(
        "SELECT {first}s::VARCHAR, count(*)::VARCHAR, {}{} FROM (SELECT {piece}s, {} FROM ({both})) GROUP BY {piece}s",
        row_sums(count),
        columns.concat(),
        hashes.join(", ")
    )
}

/// Of the rows of each piece, and of those without one: how many, two sums over them, those that belong elsewhere, and of each
/// column the values that are not NULL.
pub(super) fn totals_placed(both: &str, count: usize) -> String {
    let hashes: Vec<String> = (0..count)
        .map(|index| format!("c{index}, hash(c{index}) AS h{index}"))
        .collect();
    let columns: Vec<String> = (0..count)
        .map(|index| format!(", count(c{index})::VARCHAR"))
        .collect();
    format!(
        "SELECT p::VARCHAR, count(*)::VARCHAR, {}, (count(*) FILTER (WHERE w))::VARCHAR{} FROM (SELECT p, w, {} FROM ({both})) \
         GROUP BY p",
        row_sums(count),
        columns.concat(),
        hashes.join(", ")
    )
}

/// Two sums over rows, of the hashes of their values.
fn row_sums(count: usize) -> String {
    format!(
        "sum(hash(hash({})))::VARCHAR, sum(hash(hash({}, 7919)))::VARCHAR",
        names("h", 0..count),
        names("h", (0..count).rev())
    )
}

/// Bits of a hash that say in which share of the rows one is.
const SHARE_BITS: u32 = 12;
/// Of so many differing shares the others are not left out.
pub(super) const FEW: usize = 1 << (SHARE_BITS - 2);

fn share(count: usize, keys: &[usize]) -> String {
    let hash = if keys.is_empty() {
        row_hash(count)
    } else {
        format!("hash(hash({}))", names("c", keys.iter().copied()))
    };
    format!("({hash} >> {})", 64 - SHARE_BITS)
}

/// The shares of the rows, by key if there is one, that are not the same on both sides.
pub(super) fn unlike_shares(both: &str, count: usize, keys: &[usize]) -> String {
    format!(
        "SELECT b::VARCHAR FROM (SELECT s, {} AS b, {} AS h FROM ({both})) GROUP BY b \
         HAVING count(*) FILTER (WHERE s = 0) <> count(*) FILTER (WHERE s = 1) \
         OR sum(h) FILTER (WHERE s = 0) IS DISTINCT FROM sum(h) FILTER (WHERE s = 1)",
        share(count, keys),
        row_hash(count)
    )
}

/// The rows of these shares.
pub(super) fn of_shares(both: &str, count: usize, keys: &[usize], shares: &[String]) -> String {
    format!(
        "SELECT * FROM ({both}) WHERE {} IN ({})",
        share(count, keys),
        shares.join(", ")
    )
}

/// Smallest and largest value of some columns, for each side.
pub(super) fn extremes(both: &str, columns: &[usize]) -> String {
    let list: Vec<String> = columns
        .iter()
        .map(|index| format!(", min(c{index})::VARCHAR, max(c{index})::VARCHAR"))
        .collect();
    format!("SELECT s::VARCHAR{} FROM ({both}) GROUP BY s", list.concat())
}

/// How often each row is on each side, where that differs. Rows are known by their hash here.
fn unlike(both: &str, count: usize) -> String {
    format!(
        "SELECT h, l, r FROM (SELECT h, count(*) FILTER (WHERE s = 0) AS l, count(*) FILTER (WHERE s = 1) AS r FROM \
         (SELECT s, {} AS h FROM ({both})) GROUP BY h) WHERE l <> r",
        row_hash(count)
    )
}

/// Which rows a finding is about: the condition on how often a row is left (`l`) and right (`r`), and the side to show.
#[derive(Clone, Copy, Debug)]
pub(super) struct Which {
    pub condition: &'static str,
    pub many: &'static str,
    pub side: u8,
}

pub(super) const MISSING: Which = Which {
    condition: "l > r",
    many: "l - r",
    side: 0,
};
pub(super) const EXTRA: Which = Which {
    condition: "l = 0",
    many: "r",
    side: 1,
};
pub(super) const DOUBLED: Which = Which {
    condition: "l > 0 AND r > l",
    many: "r - l",
    side: 1,
};

/// How many rows are missing, extra and doubled.
pub(super) fn counted(both: &str, count: usize) -> String {
    let sums = [MISSING, EXTRA, DOUBLED].map(|which| {
        format!(
            "coalesce(sum({}) FILTER (WHERE {}), 0)::VARCHAR",
            which.many, which.condition
        )
    });
    format!("SELECT {} FROM ({})", sums.join(", "), unlike(both, count))
}

/// Some of these rows, one of each.
pub(super) fn examples(both: &str, count: usize, which: Which, most: usize) -> String {
    let list: Vec<String> = (0..count).map(|index| format!("c{index}::VARCHAR")).collect();
    format!(
        "SELECT DISTINCT {} FROM ({both}) WHERE s = {} AND {} IN (SELECT h FROM ({}) WHERE {} ORDER BY h LIMIT {most}) \
         ORDER BY ALL LIMIT {most}",
        list.join(", "),
        which.side,
        row_hash(count),
        unlike(both, count),
        which.condition
    )
}

/// Of each piece the right side's rows that are not on the left, those that are there more often than on the left, and some of
/// either. The number of a row's piece is in `p`.
pub(super) fn strangers(both: &str, count: usize, most: usize) -> String {
    let list = |each: &dyn Fn(usize) -> String| {
        let all: Vec<String> = (0..count).map(each).collect();
        all.join(", ")
    };
    format!(
        "SELECT p::VARCHAR, x::VARCHAR, m::VARCHAR, {} FROM (SELECT p, x, m, unnest(e) AS u FROM \
         (SELECT p, count(*) FILTER (WHERE l = 0) AS x, count(*) FILTER (WHERE l > 0) AS m, min([{}], {}) AS e \
         FROM (SELECT *, {} AS h FROM ({both})) JOIN (SELECT * FROM ({}) WHERE r > l) USING (h) WHERE s = 1 GROUP BY p)) \
         ORDER BY p, u",
        list(&|index| format!("u[{}]", index + 1)),
        list(&|index| format!("c{index}::VARCHAR")),
        most.max(1),
        row_hash(count),
        unlike(both, count)
    )
}

/// The rows of each key: how many on each side, and the sum of their hashes.
fn keyed(both: &str, count: usize, keys: &[usize]) -> String {
    let keys = names("c", keys.iter().copied());
    format!(
        "SELECT {keys}, count(*) FILTER (WHERE s = 0) AS l, count(*) FILTER (WHERE s = 1) AS r, \
         sum(h) FILTER (WHERE s = 0) AS hl, sum(h) FILTER (WHERE s = 1) AS hr \
         FROM (SELECT *, {} AS h FROM ({both})) GROUP BY {keys}",
        row_hash(count)
    )
}

/// What a key may be found for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Key {
    /// Only on the left.
    Missing,
    /// Only on the right.
    Extra,
    /// Several rows of the left side have it.
    TwiceLeft,
    /// Several rows of the right side have it.
    TwiceRight,
    /// Its rows differ.
    Changed,
    /// The same, of keys with several rows on a side.
    ChangedSeveral,
}

impl Key {
    pub(super) const COUNTED: [Key; 5] = [
        Key::Missing,
        Key::Extra,
        Key::TwiceLeft,
        Key::TwiceRight,
        Key::Changed,
    ];

    fn condition(self) -> &'static str {
        match self {
            Key::Missing => "r = 0",
            Key::Extra => "l = 0",
            Key::TwiceLeft => "l > 1",
            Key::TwiceRight => "r > 1",
            Key::Changed => "l > 0 AND r > 0 AND hl <> hr",
            Key::ChangedSeveral => "l > 0 AND r > 0 AND hl <> hr AND (l > 1 OR r > 1)",
        }
    }

    fn rows(self) -> &'static str {
        match self {
            Key::Missing | Key::TwiceLeft => "l",
            Key::Extra | Key::TwiceRight => "r",
            Key::Changed | Key::ChangedSeveral => "greatest(l, r)",
        }
    }
}

/// For each of [`Key::COUNTED`]: how many keys, and how many rows they have.
pub(super) fn keys_counted(both: &str, count: usize, keys: &[usize]) -> String {
    let counts = Key::COUNTED.map(|key| {
        format!(
            "count(*) FILTER (WHERE {0})::VARCHAR, coalesce(sum({1}) FILTER (WHERE {0}), 0)::VARCHAR",
            key.condition(),
            key.rows()
        )
    });
    format!("SELECT {} FROM ({})", counts.join(", "), keyed(both, count, keys))
}

/// Some of these keys, with how often they are left and right.
pub(super) fn keys_shown(both: &str, count: usize, keys: &[usize], key: Key, most: usize) -> String {
    let list: Vec<String> = keys.iter().map(|index| format!("c{index}::VARCHAR")).collect();
    let order = names("c", keys.iter().copied());
    format!(
        "SELECT {}, l::VARCHAR, r::VARCHAR FROM ({}) WHERE {} ORDER BY {order} LIMIT {most}",
        list.join(", "),
        keyed(both, count, keys),
        key.condition()
    )
}

/// The keys that are once on either side, with the hash of each other column there.
fn paired(both: &str, keys: &[usize], others: &[usize]) -> String {
    let list = names("c", keys.iter().copied());
    let hashes: Vec<String> = others
        .iter()
        .map(|index| {
            format!(
                ", max(hash(c{index})) FILTER (WHERE s = 0) AS l{index}, max(hash(c{index})) FILTER (WHERE s = 1) AS r{index}"
            )
        })
        .collect();
    format!(
        "SELECT {list}{} FROM ({both}) GROUP BY {list} HAVING count(*) = 2 AND count(*) FILTER (WHERE s = 0) = 1",
        hashes.concat()
    )
}

/// In how many of these keys anything differs, and in how many each of the `others` does.
pub(super) fn changed(both: &str, keys: &[usize], others: &[usize]) -> String {
    let differs: Vec<String> = others
        .iter()
        .map(|index| format!("l{index} <> r{index}"))
        .collect();
    let counts: Vec<String> = differs
        .iter()
        .map(|differs| format!(", count(*) FILTER (WHERE {differs})::VARCHAR"))
        .collect();
    format!(
        "SELECT count(*) FILTER (WHERE {})::VARCHAR{} FROM ({})",
        differs.join(" OR "),
        counts.concat(),
        paired(both, keys, others)
    )
}

/// Some keys in which a column differs, with both values.
pub(super) fn changed_shown(both: &str, keys: &[usize], column: usize, most: usize) -> String {
    let prefixed = |prefix: &str| {
        let names: Vec<String> = keys.iter().map(|index| format!("{prefix}.c{index}")).collect();
        names
    };
    let same: Vec<String> = prefixed("b")
        .iter()
        .zip(prefixed("k"))
        .map(|(left, right)| format!("{left} IS NOT DISTINCT FROM {right}"))
        .collect();
    let texts: Vec<String> = prefixed("k")
        .iter()
        .map(|key| format!("{key}::VARCHAR"))
        .collect();
    let order = names("c", keys.iter().copied());
    format!(
        "SELECT {}, any_value(b.c{column}::VARCHAR) FILTER (WHERE b.s = 0), any_value(b.c{column}::VARCHAR) FILTER (WHERE b.s = 1) \
         FROM ({both}) AS b JOIN (SELECT {order} FROM ({}) WHERE l{column} <> r{column} ORDER BY {order} LIMIT {most}) AS k \
         ON {} GROUP BY {} ORDER BY {}",
        texts.join(", "),
        paired(both, keys, &[column]),
        same.join(" AND "),
        prefixed("k").join(", "),
        prefixed("k").join(", "),
    )
}
