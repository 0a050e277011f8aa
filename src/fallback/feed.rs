//! Two ways to feed the pieces of a query: to read what it reads once more for each, or to write what they need once, sorted
//! by piece. Pure.

#![expect(clippy::cast_precision_loss, reason = "estimates need no more than 53 bits")]

use std::time::Duration;

use crate::settings::Feed;
use crate::units::Bytes;

/// What is known when it is to be chosen.
#[derive(Clone, Copy, Debug)]
pub struct Costs {
    /// Into how many pieces it is cut.
    pub pieces: usize,
    /// Rows that go into all of them.
    pub rows: u64,
    /// Bytes that the pieces need of a row.
    pub width: f64,
    /// How long it took to read what the query reads once.
    pub pass: Duration,
    /// Room on the disk that DuckDB spills to, if that is known.
    pub disk: Option<Bytes>,
}

/// Seconds to write a row, to sort it and to read it again, and for each byte of it: measured with DuckDB 2.0 on two cores,
/// while it spilled, on rows of 28 and of 72 bytes.
const ROW: f64 = 50e-9;
const BYTE: f64 = 2e-9;
/// Writing must be worth it by so much, and by so many seconds: a pass is a measurement, the rest are estimates.
const WORTH: f64 = 1.5;
const SAVED: f64 = 0.1;
/// The table, and what sorting it takes meanwhile.
const COPIES: f64 = 2.0;

/// The way that takes less time, and that there is room for.
pub fn choose(costs: &Costs) -> Feed {
    let width = costs.width + 8.0;
    let rows = costs.rows as f64;
    let bytes = rows * width * COPIES;
    if costs.disk.is_some_and(|disk| bytes > disk.get() as f64) {
        return Feed::Scan;
    }
    let pass = costs.pass.as_secs_f64();
    let spool = pass + rows * (ROW + BYTE * width);
    if costs.pieces as f64 * pass > WORTH * spool + SAVED {
        Feed::Spool
    } else {
        Feed::Scan
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn costs(pieces: usize, pass: u64) -> Costs {
        Costs {
            pieces,
            rows: 20_000_000,
            width: 20.0,
            pass: Duration::from_millis(pass),
            disk: None,
        }
    }

    #[test]
    fn many_reads_of_what_is_costly_to_read_are_worth_one_write() {
        assert_eq!(choose(&costs(20, 1000)), Feed::Spool);
        assert_eq!(choose(&costs(2, 1000)), Feed::Scan);
        assert_eq!(choose(&costs(20, 50)), Feed::Scan);
    }

    #[test]
    fn nothing_is_written_for_the_sake_of_milliseconds() {
        let small = Costs {
            rows: 500,
            ..costs(20, 4)
        };
        assert_eq!(choose(&small), Feed::Scan);
    }

    #[test]
    fn nothing_is_written_that_the_disk_has_no_room_for() {
        let full = Costs {
            disk: Some(Bytes::mib(100)),
            ..costs(20, 1000)
        };
        assert_eq!(choose(&full), Feed::Scan);
    }
}
