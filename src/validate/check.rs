//! Everything that can be asked of a source or of pieces, in one report.

use super::compare::{Options, compare};
use super::gaps::{self, Gaps};
use super::located::{by_themselves, compare_pieces};
use super::piece_set::{Described, PieceSet};
use super::references::{self, Reference};
use super::{Validation, keys};
use crate::engine::source::Source;
use crate::engine::{Ask, described};
use crate::error::{Error, ErrorKind, Result};

/// What is asked besides whether the rows are the same.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Checks {
    /// The key, and how much is shown.
    pub options: Options,
    /// Columns that refer to others.
    pub references: Vec<Reference>,
    /// A sequence without gaps.
    pub gaps: Option<Gaps>,
}

/// Compares `right` with `left`, if there is one, and asks of `right` what `checks` says. Of pieces, and of a source without
/// another, the key is looked at over all of them.
///
/// # Errors
/// [`ErrorKind::Invalid`] where there is nothing to ask, and for columns that are not there or will not do; those of whoever is
/// asked.
pub fn check<E: From<Error>>(
    ask: &mut dyn Ask<E>,
    left: Option<&Source>,
    right: &PieceSet,
    checks: &Checks,
) -> Result<Validation, E> {
    let (on, most) = (&checks.options.on, checks.options.examples);
    let asks_nothing = on.is_empty() && checks.references.is_empty() && checks.gaps.is_none();
    if left.is_none() && right.is_whole() && asks_nothing {
        let message = format!(
            "there is nothing to compare {} with; give a second source, or on=, references= or gaps=",
            right.name()
        );
        return Err(Error::new(ErrorKind::Invalid, message).into());
    }
    if let Some(left) = left
        && right.is_whole()
        && checks.references.is_empty()
        && checks.gaps.is_none()
    {
        return compare(ask, left, &right.union(), &checks.options);
    }
    let rows = Described::ask(ask, right)?;
    // Names are looked up before anything is read.
    if left.is_none() || !right.is_whole() {
        rows.pick("on", on)?;
    }
    for reference in &checks.references {
        rows.pick("references", &reference.columns)?;
    }
    if let Some(wanted) = &checks.gaps {
        rows.pick("gaps", std::slice::from_ref(&wanted.column))?;
    }
    let columns = left.map(|left| described(ask, &left.relation)).transpose()?;
    let mut validation = match (left, &columns) {
        (Some(left), _) if right.is_whole() => compare(ask, left, &right.union(), &checks.options)?,
        (Some(left), Some(columns)) => compare_pieces(ask, left, columns, &rows, &checks.options)?,
        _ => {
            let (pieces, findings) = by_themselves(ask, &rows)?;
            Validation::alone(right, on.clone(), pieces, findings)
        }
    };
    if !on.is_empty() && (left.is_none() || !right.is_whole()) {
        let (findings, overlaps) = keys::check(ask, &rows, on, most)?;
        // A key that is none in the pieces may be none in the source, and where rows differ, in the source alone.
        if let Some(left) = left
            && !(validation.findings.is_empty() && findings.is_empty())
        {
            let source = PieceSet::whole(left.clone());
            let described = Described::ask(ask, &source)?;
            let (found, _) = keys::check(ask, &described, on, most)?;
            validation.findings.extend(found.into_iter().map(|mut finding| {
                finding.message.push_str(", on the left");
                finding
            }));
        }
        validation.findings.extend(findings);
        validation.overlaps = overlaps;
    }
    for reference in &checks.references {
        validation
            .findings
            .extend(references::check(ask, &rows, reference, most)?);
    }
    if let Some(wanted) = &checks.gaps {
        let source = left.zip(columns.as_deref());
        validation
            .findings
            .extend(gaps::check(ask, source, &rows, wanted, most)?);
    }
    validation.ok = validation.findings.is_empty();
    Ok(validation)
}
