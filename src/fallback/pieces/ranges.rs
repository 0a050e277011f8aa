//! Ranges of the hash that together are all of it: how many pieces there are, and what each of them covers. Pure.

#![expect(clippy::cast_possible_truncation, reason = "numbers of buckets are small")]

/// Buckets of the hash in which rows are counted beforehand; pieces are runs of them.
pub(super) const BUCKETS: u64 = 1 << BUCKET_BITS;
pub(super) const BUCKET_BITS: u32 = 10;

/// A run of hashes, both ends included, and how many rows it has.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Range {
    pub(super) low: u64,
    pub(super) high: u64,
    pub(super) rows: u64,
}

/// A range to ask for a plan with.
pub(super) const SIXTEENTH: Range = Range {
    low: 1,
    high: u64::MAX / 16,
    rows: 0,
};

/// `wanted` ranges that cover every hash, with as equal numbers of rows as whole buckets allow.
pub(super) fn ranges(counts: Option<&[u64]>, wanted: usize) -> Vec<Range> {
    let even = vec![1u64; BUCKETS as usize];
    let counted = counts.unwrap_or(&even);
    let wanted = wanted.clamp(1, BUCKETS as usize) as u128;
    let total: u128 = counted.iter().map(|count| u128::from(*count)).sum();
    let mut ranges: Vec<Range> = Vec::new();
    let (mut first, mut rows, mut before) = (0u64, 0u64, 0u128);
    for (bucket, count) in (0u64..).zip(counted) {
        rows += count;
        before += u128::from(*count);
        let full = before * wanted >= total * (ranges.len() as u128 + 1);
        let last = bucket + 1 == BUCKETS;
        if last || (full && rows > 0) {
            ranges.push(Range {
                low: first << (64 - BUCKET_BITS),
                high: (bucket << (64 - BUCKET_BITS)) | (u64::MAX >> BUCKET_BITS),
                rows,
            });
            first = bucket + 1;
            rows = 0;
        }
    }
    // What is left over at the end may have no rows.
    if let [.., before, last] = ranges.as_mut_slice()
        && last.rows == 0
    {
        before.high = last.high;
        ranges.pop();
    }
    ranges
}

/// A range in two, if it has several buckets.
pub(super) fn smaller(range: Range, counts: Option<&[u64]>) -> Vec<Range> {
    let shift = 64 - BUCKET_BITS;
    if range.low >> shift == range.high >> shift {
        return vec![range];
    }
    halves(range, counts)
}

/// A range of several buckets as two, of as equal numbers of rows as can be.
fn halves(range: Range, counts: Option<&[u64]>) -> Vec<Range> {
    let shift = 64 - BUCKET_BITS;
    let (first, last) = (range.low >> shift, range.high >> shift);
    let rows_of = |bucket: u64| counts.map_or(1, |counts| counts[bucket as usize]);
    let total: u64 = (first..=last).map(rows_of).sum();
    let mut rows = 0;
    let mut middle = first;
    for bucket in first..last {
        rows += rows_of(bucket);
        middle = bucket;
        if rows * 2 >= total {
            break;
        }
    }
    let high = (middle << shift) | (u64::MAX >> BUCKET_BITS);
    vec![
        Range {
            low: range.low,
            high,
            rows,
        },
        Range {
            low: high + 1,
            high: range.high,
            rows: total - rows,
        },
    ]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn covers(ranges: &[Range], low: u64, high: u64) {
        assert_eq!(ranges.first().map(|range| range.low), Some(low));
        assert_eq!(ranges.last().map(|range| range.high), Some(high));
        for pair in ranges.windows(2) {
            assert_eq!(pair[0].high + 1, pair[1].low, "disjoint, and nothing between");
        }
    }

    proptest! {
        #[test]
        fn ranges_cover_every_hash_once_and_keep_every_row(
            counts in proptest::collection::vec(prop_oneof![Just(0u64), 0u64..1000, Just(1_000_000)], BUCKETS as usize),
            wanted in 1usize..2000,
        ) {
            let ranges = ranges(Some(&counts), wanted);
            covers(&ranges, 0, u64::MAX);
            prop_assert!(ranges.len() <= wanted.max(1));
            let rows: u64 = ranges.iter().map(|range| range.rows).sum();
            prop_assert_eq!(rows, counts.iter().sum::<u64>());
        }

        #[test]
        fn halves_are_the_whole_and_smaller(first in 0u64..1000, more in 1u64..24, seed in 0u64..1000) {
            let counts: Vec<u64> = (0..BUCKETS).map(|bucket| bucket * seed % 97).collect();
            let shift = 64 - BUCKET_BITS;
            let last = first + more;
            let rows = (first..=last).map(|bucket| counts[bucket as usize]).sum();
            let range = Range { low: first << shift, high: (last << shift) | (u64::MAX >> BUCKET_BITS), rows };
            let parts = halves(range, Some(&counts));
            covers(&parts, range.low, range.high);
            prop_assert_eq!(parts.len(), 2);
            prop_assert_eq!(parts[0].rows + parts[1].rows, rows);
        }
    }

    #[test]
    fn even_ranges_are_made_where_nothing_is_counted() {
        let parts = ranges(None, 4);
        covers(&parts, 0, u64::MAX);
        assert_eq!(parts.len(), 4);
    }
}
