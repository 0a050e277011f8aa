//! A plan in a file: written, read, and taken again where it is the one that is asked for.

use std::io;
use std::path::Path;

use super::{Plan, Wish, plan};
use crate::engine::Ask;
use crate::engine::source::Source;
use crate::error::{Error, ErrorKind, Result};
use crate::files;
use crate::units::Bytes;

impl Plan {
    /// Writes the plan to a file, as JSON: the file is there whole or as it was.
    ///
    /// # Errors
    /// [`ErrorKind::Disk`] where it cannot be written.
    pub fn save(&self, path: &Path) -> Result<()> {
        files::save(path, self.to_json().as_bytes())
            .map_err(|error| broken("writing the plan to", path, &error))
    }

    /// The plan that [`Plan::save`] wrote.
    ///
    /// # Errors
    /// [`ErrorKind::Disk`] where the file cannot be read; those of [`Plan::from_json`].
    pub fn load(path: &Path) -> Result<Self> {
        let text =
            std::fs::read_to_string(path).map_err(|error| broken("reading the plan from", path, &error))?;
        Plan::from_json(&text)
            .map_err(|error| Error::new(error.kind(), format!("{}: {}", path.display(), error.message())))
    }

    /// Refuses a plan that was made of another source, or of another wish, as far as that says something.
    fn check_wish(&self, source: &Source, wish: &Wish, file: &Path) -> Result<()> {
        let file = file.display();
        let other = "or name another file";
        if self.source != source.name {
            let accepted = format!(
                "the plan in {file} is of {:?}; give that source, {other}",
                self.source
            );
            return Err(Error::invalid(
                "source",
                format_args!("{:?}", source.name),
                &accepted,
            ));
        }
        let made = self.wish.as_ref().map(said);
        for (place, (name, given)) in said(wish).into_iter().enumerate() {
            let Some(given) = given else { continue };
            let before = match &made {
                None => "does not say what it was made with".to_owned(),
                Some(made) => match &made[place].1 {
                    Some(before) if before.eq_ignore_ascii_case(&given) => continue,
                    Some(before) => format!("was made with {name}={before}"),
                    None => "was made without it".to_owned(),
                },
            };
            let accepted = format!("the plan in {file} {before}; leave it out to take that plan, {other}");
            return Err(Error::invalid(name, given, &accepted));
        }
        Ok(())
    }
}

/// What a wish says, by the names of the arguments.
fn said(wish: &Wish) -> [(&'static str, Option<String>); 7] {
    [
        ("by", (!wish.by.is_empty()).then(|| format!("{:?}", wish.by))),
        ("every", wish.every.map(|step| format!("{:?}", step.name()))),
        ("zone", wish.zone.as_ref().map(|zone| format!("{zone:?}"))),
        ("pieces", wish.pieces.map(|pieces| pieces.to_string())),
        ("rows", wish.rows.map(|rows| rows.to_string())),
        ("hash", wish.hash.map(|pieces| pieces.to_string())),
        ("value", wish.value.then(|| "True".to_owned())),
    ]
}

/// The plan that is in `file`, if it is there: what `wish` says must be what it was made with, what is left open is as it is
/// there. Otherwise it is planned as [`plan`] does, and kept there.
///
/// # Errors
/// [`ErrorKind::Invalid`] for a name that does not end in `.json`, and where the file has another plan; [`ErrorKind::Disk`] where it
/// cannot be read or written; those of [`plan`].
pub fn kept_plan<E: From<Error>>(
    ask: &mut dyn Ask<E>,
    source: &Source,
    wish: &Wish,
    room: Bytes,
    file: &Path,
) -> Result<Plan, E> {
    // Nobody is to have us open and close a database by mistake.
    if file
        .extension()
        .is_none_or(|ending| !ending.eq_ignore_ascii_case("json"))
    {
        let name = format!("{:?}", file.display().to_string());
        return Err(Error::invalid("file", name, "give the path of a file whose name ends in .json").into());
    }
    if file.symlink_metadata().is_ok() {
        let kept = Plan::load(file)?;
        kept.check_wish(source, wish, file)?;
        return Ok(kept);
    }
    // Before the work is done.
    files::draft(file).map_err(|error| broken("writing the plan to", file, &error))?;
    let made = plan(ask, source, wish, room)?;
    made.save(file)?;
    Ok(made)
}

fn broken(what: &str, path: &Path, error: &io::Error) -> Error {
    let message = format!("{what} {} failed: {error}", path.display());
    Error::new(ErrorKind::Disk, message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::Rows;
    use crate::partition::calendar::Step;
    use crate::partition::plan::{Cut, Rule};

    fn plan_of(wish: Option<Wish>) -> Plan {
        let cut = Cut {
            column: "a".to_owned(),
            type_name: "INTEGER".to_owned(),
            rule: Rule::Hash { pieces: 3 },
        };
        let source = Source::parse("t").unwrap();
        let mut plan = Plan::new(&source, vec![("a".to_owned(), "INTEGER".to_owned())], vec![cut]);
        plan.wish = wish;
        plan
    }

    fn wish() -> Wish {
        Wish {
            by: vec!["a".to_owned()],
            hash: Some(3),
            ..Wish::default()
        }
    }

    #[test]
    fn what_is_said_must_be_what_it_was_made_with_and_what_is_not_said_is_as_it_was() {
        let (plan, t) = (plan_of(Some(wish())), Source::parse("t").unwrap());
        let file = Path::new("p.json");
        let upper = Wish {
            by: vec!["A".to_owned()],
            ..Wish::default()
        };
        for good in [Wish::default(), wish(), upper] {
            plan.check_wish(&t, &good, file).unwrap();
        }
        let one = |change: &dyn Fn(&mut Wish)| {
            let mut wish = Wish::default();
            change(&mut wish);
            wish
        };
        for (bad, expected) in [
            (
                one(&|wish| wish.hash = Some(4)),
                "hash=4 is not accepted: the plan in p.json was made with hash=3; leave it out",
            ),
            (
                one(&|wish| wish.by = vec!["b".to_owned()]),
                "by=[\"b\"] is not accepted: the plan in p.json was made with by=[\"a\"]",
            ),
            (
                one(&|wish| wish.every = Some(Step::Day)),
                "every=\"day\" is not accepted: the plan in p.json was made without it",
            ),
            (one(&|wish| wish.zone = Some("UTC".to_owned())), "zone=\"UTC\""),
            (one(&|wish| wish.pieces = Some(3)), "pieces=3"),
            (one(&|wish| wish.rows = Some(3)), "rows=3"),
            (one(&|wish| wish.value = true), "value=True"),
        ] {
            let error = plan.check_wish(&t, &bad, file).unwrap_err();
            assert!(error.message().starts_with(expected), "{}", error.message());
        }
        let error = plan
            .check_wish(&Source::parse("u").unwrap(), &wish(), file)
            .unwrap_err();
        assert!(
            error.message().contains("the plan in p.json is of \"t\""),
            "{}",
            error.message()
        );
    }

    #[test]
    fn a_plan_that_does_not_say_how_it_was_made_is_taken_where_nothing_is_asked() {
        let (plan, t) = (plan_of(None), Source::parse("t").unwrap());
        assert!(!plan.to_json().contains("wish"));
        plan.check_wish(&t, &Wish::default(), Path::new("p.json"))
            .unwrap();
        let error = plan.check_wish(&t, &wish(), Path::new("p.json")).unwrap_err();
        assert!(
            error.message().contains("does not say what it was made with"),
            "{}",
            error.message()
        );
    }

    /// Nobody who could be asked.
    struct Nobody;

    impl Ask<Error> for Nobody {
        fn ask(&mut self, _: &str) -> Result<Rows> {
            Err(Error::new(ErrorKind::Query, "there is no such table"))
        }

        fn pause(&mut self, _: std::time::Duration) -> Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_kept_plan_is_taken_without_a_question_and_none_is_kept_of_a_failure() {
        let place = tempfile::tempdir().unwrap();
        let (file, t) = (place.path().join("p.json"), Source::parse("t").unwrap());
        let take = |name: &str| kept_plan(&mut Nobody, &t, &wish(), Bytes(0), &place.path().join(name));
        assert_eq!(take("p.json").unwrap_err().kind(), ErrorKind::Query);
        assert_eq!(std::fs::read_dir(place.path()).unwrap().count(), 0);
        assert_eq!(take("nowhere/p.json").unwrap_err().kind(), ErrorKind::Disk);
        assert_eq!(take("p.duckdb").unwrap_err().kind(), ErrorKind::Invalid);
        plan_of(Some(wish())).save(&file).unwrap();
        assert_eq!(take("p.json").unwrap(), plan_of(Some(wish())));
        std::fs::write(&file, "{}").unwrap();
        let error = take("p.json").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert!(
            error.message().contains("p.json: this is no plan"),
            "{}",
            error.message()
        );
    }
}
