//! Rows and digest of one source: what [`pieces`](super::pieces) says of a piece, asked again later.

use super::PieceDigest;
use super::compare::totals_of;
use super::sql::{self, Shared};
use crate::engine::Ask;
use crate::engine::source::Source;
use crate::error::{Error, Result};

/// The rows and the digest of a source with these columns: name and type. The digest is made of the hash of the DuckDB that
/// is asked.
///
/// # Errors
/// Those of whoever is asked.
pub fn digest<E: From<Error>>(
    ask: &mut dyn Ask<E>,
    source: &Source,
    columns: &[(String, String)],
) -> Result<PieceDigest, E> {
    let shared: Vec<Shared> = columns
        .iter()
        .map(|(name, kind)| Shared {
            left: name.clone(),
            right: name.clone(),
            left_type: kind.clone(),
            right_type: kind.clone(),
        })
        .collect();
    let count = shared.len();
    let rows = ask.ask(&sql::totals_by_piece(&sql::alone(source, &shared), count))?;
    let [found, _] = totals_of(&rows, count)?.all;
    Ok(found.of_piece())
}
