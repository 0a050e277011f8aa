use super::*;
use crate::clock::{ManualClock, SystemClock};
use crate::engine::scripted::Process;
use crate::fallback::ladder::Rung;
use crate::guard::budget::Limits;

fn learnt(names: &[&str], growth: u64) -> Vec<(Fingerprint, Need)> {
    let need = Need {
        growth: Bytes(growth),
        spilled: Bytes(0),
        took: Duration::from_millis(growth),
        rung: Rung::Pieces,
        budget: Bytes(100),
    };
    names.iter().map(|name| (Fingerprint::of(name), need)).collect()
}

fn growth(history: &History, name: &str) -> Option<u64> {
    history.need(Fingerprint::of(name)).map(|need| need.growth.get())
}

/// A file that is not there yet, in a directory of its own.
fn file() -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = check(&directory.path().join("history.json")).unwrap();
    (directory, path)
}

fn names(directory: &Path) -> Vec<String> {
    let entries = directory.read_dir().unwrap();
    let mut names: Vec<String> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn what_one_keeps_another_finds_and_of_each_shape_the_last_word_holds() {
    let (directory, path) = file();
    let clock = ManualClock::new();
    let mut told = Vec::new();
    let mut keep = |learnt| update(&path, learnt, &*clock, &mut told).unwrap();
    assert!(keep(Vec::new()).since(Place::default()).is_empty());
    assert!(names(directory.path()).is_empty(), "nothing was learnt");
    keep(learnt(&["a", "b"], 1));
    let kept = keep(learnt(&["b", "c"], 2));
    let found = keep(Vec::new());
    for history in [kept, found] {
        assert_eq!(
            ["a", "b", "c"].map(|name| growth(&history, name)),
            [Some(1), Some(2), Some(2)]
        );
    }
    assert_eq!(names(directory.path()), ["history.json"]);
    assert_eq!(told, []);
}

#[test]
fn many_at_once_lose_nothing_and_leave_a_whole_file() {
    let (directory, path) = file();
    let whole = || History::read(&std::fs::read(&path).unwrap(), SHAPES).unwrap();
    let keep = |learnt| {
        let mut told = Vec::new();
        update(&path, learnt, &SystemClock::new(), &mut told).unwrap();
        assert_eq!(told, []);
    };
    std::thread::scope(|scope| {
        for writer in 0..4 {
            scope.spawn(move || {
                for number in 0..8 {
                    keep(learnt(&[&format!("f{writer}_{number}")], 1));
                    whole();
                }
            });
        }
    });
    assert_eq!(whole().since(Place::default()).len(), 32);
    assert_eq!(names(directory.path()), ["history.json"]);
}

#[test]
fn whoever_reads_while_it_is_replaced_reads_the_old_text_to_its_end() {
    let (_directory, path) = file();
    let keep = |name| update(&path, learnt(&[name], 1), &*ManualClock::new(), &mut Vec::new()).unwrap();
    keep("a");
    let before = std::fs::read(&path).unwrap();
    let mut reader = open(&path).unwrap();
    keep("b");
    let mut text = Vec::new();
    reader.read_to_end(&mut text).unwrap();
    assert_eq!(text, before);
    assert_ne!(std::fs::read(&path).unwrap(), before);
}

#[test]
fn while_the_file_waits_queries_learn_and_none_of_it_is_lost() {
    let (directory, path) = file();
    let limits = || Limits {
        machine: Some(Bytes::mib(1024)),
        ..Limits::default()
    };
    let clock = SystemClock::shared();
    let process = Process::new(clock.clone());
    let guardian = Guardian::new(clock.clone(), process.sampler(), Box::new(limits)).unwrap();
    let kept = Kept {
        path: path.clone(),
        state: Mutex::new(State {
            place: Place::default(),
            at: clock.now(),
        }),
    };
    let history = Mutex::new(kept.load(&guardian));
    history.lock().merge(learnt(&["a"], 1));
    std::thread::scope(|scope| {
        let another = Alone::in_directory(directory.path(), &*clock);
        scope.spawn(|| kept.keep(&history, &guardian));
        clock.sleep(Duration::from_millis(50));
        let free = history.try_lock_for(Duration::from_millis(500));
        free.unwrap().merge(learnt(&["a", "b"], 2));
        drop(another);
    });
    let seen = |history: &History| ["a", "b"].map(|name| growth(history, name));
    assert_eq!(seen(&history.lock()), [Some(2), Some(2)]);
    kept.keep(&history, &guardian);
    let read = History::read(&std::fs::read(&path).unwrap(), SHAPES).unwrap();
    assert_eq!(seen(&read), [Some(2), Some(2)]);
}

#[test]
fn a_file_that_is_not_a_history_is_moved_aside_and_none_is_ever_deleted() {
    let (directory, path) = file();
    let clock = ManualClock::new();
    let large = vec![b' '; usize::try_from(LARGEST.get()).unwrap() + 1];
    let broken: [(&[u8], &str); 3] = [
        (b"{\"version\": 1, \"que", "not a history"),
        (b"{\"version\": 2}", "version 2"),
        (&large, "larger than 1.0 MiB"),
    ];
    for (number, (text, why)) in broken.into_iter().cycle().take(MOST_BROKEN).enumerate() {
        std::fs::write(&path, text).unwrap();
        let mut told = Vec::new();
        let history = update(&path, learnt(&["a"], 1), &*clock, &mut told).unwrap();
        assert_eq!(growth(&history, "a"), Some(1));
        let [What::HistoryMovedAside { to, reason, .. }] = &told[..] else {
            panic!("{told:?}");
        };
        assert!(reason.contains(why), "{reason}");
        assert_eq!(std::fs::read(to).unwrap(), text, "{number}");
    }
    assert_eq!(names(directory.path()).len(), 1 + MOST_BROKEN);
    std::fs::write(&path, "once more").unwrap();
    let error = update(&path, learnt(&["a"], 1), &*clock, &mut Vec::new()).unwrap_err();
    assert!(error.to_string().contains("remove them"), "{error}");
    assert_eq!(std::fs::read(&path).unwrap(), b"once more");
}

#[test]
fn a_database_without_a_file_has_no_place_beside_it() {
    let (directory, path) = file();
    std::fs::write(&path, "").unwrap();
    assert_eq!(
        place(&Keep::Beside, Some(&path)).unwrap(),
        directory
            .path()
            .canonicalize()
            .unwrap()
            .join("history.json.duckward.json")
    );
    let remote = Path::new("https://example.org/a.duckdb");
    for (database, why) in [(None, "in memory"), (Some(remote), "example.org")] {
        let error = place(&Keep::Beside, database).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        for said in ["history=\"beside\"", why, "give the path"] {
            assert!(error.message().contains(said), "{error}");
        }
    }
    let wanted = Keep::In("x.json".into());
    assert_eq!(place(&wanted, None).unwrap(), Path::new("x.json"));
}

#[cfg(unix)]
#[test]
fn what_cannot_be_a_file_of_ours_is_refused_and_a_link_is_followed() {
    let (directory, path) = file();
    for place in ["none/x.json", ""] {
        assert!(check(&directory.path().join(place)).is_err(), "{place}");
    }
    assert!(check(Path::new("/dev/null")).is_err());
    let link = directory.path().join("link.json");
    std::os::unix::fs::symlink("history.json", &link).unwrap();
    assert!(check(&link).is_err(), "it leads nowhere");
    update(&path, learnt(&["a"], 1), &*ManualClock::new(), &mut Vec::new()).unwrap();
    assert_eq!(check(&link).unwrap(), path);
    assert_eq!(names(directory.path()), ["history.json", "link.json"]);
}

#[cfg(unix)]
#[test]
fn who_may_read_it_stays_as_it_was() {
    use std::os::unix::fs::PermissionsExt;
    let (_directory, path) = file();
    let keep = || update(&path, learnt(&["a"], 1), &*ManualClock::new(), &mut Vec::new()).unwrap();
    keep();
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o640)).unwrap();
    keep();
    assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o640);
}
