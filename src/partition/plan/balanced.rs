//! Bounds that make pieces of like size, from values and how often each was seen. Pure.

/// Where to cut: for each piece but the first the index of the value it begins with, ascending; into at most `pieces`
/// pieces. No value is in two pieces; one that is too frequent for a piece gets a piece of its own.
pub(super) fn bounds(counts: &[u64], pieces: usize) -> Vec<usize> {
    let mut cuts = Vec::new();
    let mut rest: u64 = counts.iter().sum();
    let mut left = pieces.max(1);
    let mut held: u64 = 0;
    for (index, count) in counts.iter().enumerate() {
        // What the pieces that are left should have, this one among them.
        let target = (rest + held) as f64 / left as f64;
        let with = held + count;
        // Closer to the target without this value than with it.
        let is_enough = held > 0 && left > 1 && (target - held as f64) < (with as f64 - target);
        if is_enough {
            cuts.push(index);
            left -= 1;
            held = 0;
        }
        held += count;
        rest -= count;
    }
    cuts
}

/// The values that alone have half as much again as a piece should, and their shares.
pub(super) fn heavy(counts: &[u64], pieces: usize) -> Vec<(usize, f64)> {
    let all: u64 = counts.iter().sum();
    let target = all as f64 / pieces.max(1) as f64;
    counts
        .iter()
        .enumerate()
        .filter(|(_, count)| **count as f64 > 1.5 * target)
        .map(|(index, count)| (index, *count as f64 / all as f64))
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sizes(counts: &[u64], cuts: &[usize]) -> Vec<u64> {
        let mut ends = cuts.to_vec();
        ends.push(counts.len());
        let mut from = 0;
        ends.into_iter()
            .map(|to| {
                let size = counts[from..to].iter().sum();
                from = to;
                size
            })
            .collect()
    }

    #[test]
    fn a_heavy_value_is_alone_and_the_rest_is_balanced() {
        let mut counts = vec![10; 100];
        counts[50] = 990;
        let cuts = bounds(&counts, 10);
        let sizes = sizes(&counts, &cuts);
        assert!(cuts.contains(&50) && cuts.contains(&51), "{cuts:?} {sizes:?}");
        assert!(
            sizes
                .iter()
                .filter(|size| **size != 990)
                .all(|size| (80..=250).contains(size)),
            "{sizes:?}"
        );
        assert_eq!(heavy(&counts, 10), [(50, 0.5)]);
    }

    proptest! {
        #[test]
        fn pieces_are_in_order_not_empty_and_no_more_than_wanted(
            counts in prop::collection::vec(1u64..1000, 1..300), pieces in 1usize..50
        ) {
            let cuts = bounds(&counts, pieces);
            prop_assert!(cuts.len() < pieces);
            prop_assert!(cuts.windows(2).all(|pair| pair[0] < pair[1]));
            prop_assert!(cuts.iter().all(|cut| *cut > 0 && *cut < counts.len()));
        }

        #[test]
        fn many_light_values_make_pieces_of_like_size(
            counts in prop::collection::vec(1u64..10, 500..1500), pieces in 2usize..20
        ) {
            let cuts = bounds(&counts, pieces);
            let balance = crate::partition::plan::Balance::of(sizes(&counts, &cuts).into_iter());
            prop_assert_eq!(balance.pieces, pieces);
            prop_assert!(balance.variation < 0.3, "{:?}", balance);
        }
    }
}
