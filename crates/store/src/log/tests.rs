//! The log: order, recovery from torn tails, refusal of other damage.

use pawl_domain::{
    LearnerId,
    event::{Caller, Decided, Event, Outcome},
};

use super::*;
use crate::MemoryDisk;

fn open(
    disk: &Arc<MemoryDisk>,
    checkpoint: u64,
    accept: bool,
) -> Result<(Arc<Log>, Recovery), OpenError> {
    let (log, recovery) = Log::open(
        disk.clone(),
        Config { segment_bytes: 600, read_only: false },
        checkpoint,
        accept,
    )?;
    Ok((Arc::new(log), recovery))
}

fn tick(now_ms: u64) -> Event {
    Event::Tick { now_ms }
}

fn contents(log: &Arc<Log>, from: u64) -> Vec<u64> {
    let mut reader = log.reader(from);
    let mut found = Vec::new();
    while let Some(entry) = reader.next_entry().unwrap() {
        if let Event::Tick { now_ms } = entry.event {
            found.push(now_ms);
            assert_eq!(log.read(entry.offset).unwrap().event, tick(now_ms));
        }
    }
    found
}

/// A log of 100 ticks over several segments, not synced from tick 60 on. Returns the offset of each.
fn written(disk: &Arc<MemoryDisk>) -> Vec<u64> {
    let (log, _) = open(disk, 0, false).unwrap();
    let offset = |i| {
        if i == 60 {
            log.sync().unwrap();
        }
        log.append_event(&tick(i)).unwrap().first
    };
    (0..100).map(offset).collect()
}

fn flip(disk: &MemoryDisk, offset: u64) {
    let names = disk.list(DIR).unwrap();
    let bases = names.iter().filter_map(|n| n.strip_suffix(".seg")?.parse::<u64>().ok());
    let base = bases.filter(|b| *b <= offset).max().unwrap();
    let file = disk.open(&segment_path(base)).unwrap();
    let place = SEGMENT_HEADER + offset - base;
    let mut byte = [0];
    file.read_at(&mut byte, place).unwrap();
    file.write_at(&[byte[0] ^ 0x10], place).unwrap();
}

#[test]
fn what_was_appended_is_there_after_reopening() {
    let disk = Arc::new(MemoryDisk::default());
    let offsets = written(&disk);
    let (log, recovery) = open(&disk, 0, false).unwrap();
    assert_eq!(recovery, Recovery::default());
    assert_eq!(log.epoch(), 2);
    assert_eq!(contents(&log, 0), (0..100).collect::<Vec<_>>());
    assert_eq!(contents(&log, offsets[70]), (70..100).collect::<Vec<_>>());
    assert!(disk.list(DIR).unwrap().len() > 4);
    assert!(matches!(log.read(offsets[3] + 8), Err(LogError::Absent(_))));
    assert!(matches!(log.read(log.head()), Err(LogError::Absent(_))));
}

#[test]
fn a_torn_tail_is_cut_and_a_new_record_takes_its_place() {
    for torn in [99, 98, 90, 61] {
        let disk = Arc::new(MemoryDisk::default());
        let offsets = written(&disk);
        for offset in &offsets[torn..] {
            flip(&disk, *offset + 21);
        }
        let (log, recovery) = open(&disk, 0, false).unwrap();
        assert!(recovery.torn_bytes > 0);
        assert_eq!(log.head(), offsets[torn]);
        log.append_event(&tick(1000)).unwrap();
        drop(log);
        let (log, _) = open(&disk, 0, false).unwrap();
        let expected: Vec<u64> = (0..torn as u64).chain([1000]).collect();
        assert_eq!(contents(&log, 0), expected, "torn at {torn}");
    }
}

#[test]
fn a_record_lost_among_others_that_were_not_synced_ends_the_log() {
    let disk = Arc::new(MemoryDisk::default());
    let offsets = written(&disk);
    flip(&disk, offsets[80] + 21);
    let (log, recovery) = open(&disk, 0, false).unwrap();
    assert!(recovery.torn_bytes > 0);
    assert_eq!(contents(&log, 0), (0..80).collect::<Vec<_>>());
}

#[test]
fn a_later_record_tells_that_a_damaged_one_was_synced() {
    let disk = Arc::new(MemoryDisk::default());
    let offsets = written(&disk);
    // The mark is lost: only the records after tick 60 know of the sync.
    disk.open("log/synced").unwrap().set_len(0).unwrap();
    flip(&disk, offsets[59] + 21);
    assert!(matches!(open(&disk, 0, false), Err(OpenError::Damaged(_))));
}

#[test]
fn other_damage_stops_the_start_and_is_given_up_only_on_demand() {
    for (damaged, why) in [(5, "marked as synced"), (59, "the last that was synced")] {
        let disk = Arc::new(MemoryDisk::default());
        let offsets = written(&disk);
        flip(&disk, offsets[damaged] + 21);
        let error = open(&disk, 0, false).unwrap_err();
        let OpenError::Damaged(damage) = error else { panic!("{error}") };
        assert_eq!(damage.from, offsets[damaged], "{why}");
        assert_eq!(damage.to, offsets[damaged + 1]);
        let (log, recovery) = open(&disk, 0, true).unwrap();
        assert_eq!(recovery.accepted, Some(damage));
        let expected: Vec<u64> = (0..100).filter(|i| *i != damaged as u64).collect();
        assert_eq!(contents(&log, 0), expected);
        drop(log);
        let (log, recovery) = open(&disk, 0, false).unwrap();
        assert_eq!((recovery, contents(&log, 0)), (Recovery::default(), expected));
    }
}

#[test]
fn a_log_that_lost_its_end_or_its_middle_is_not_taken_for_whole() {
    // Cut at a record, below what was synced; cut below the checkpoint; a segment gone from the middle.
    for (kept, checkpoint) in [(50, 0), (20, 40)] {
        let disk = Arc::new(MemoryDisk::default());
        let offsets = written(&disk);
        let names = disk.list(DIR).unwrap();
        for name in names.iter().filter(|n| n.ends_with(".seg")) {
            let base: u64 = name.strip_suffix(".seg").unwrap().parse().unwrap();
            let file = disk.open(&format!("{DIR}/{name}")).unwrap();
            if base >= offsets[kept] {
                disk.remove(&format!("{DIR}/{name}")).unwrap();
            } else if base + file.size().unwrap() > offsets[kept] {
                file.set_len(SEGMENT_HEADER + offsets[kept] - base).unwrap();
            }
        }
        let checkpoint = offsets[checkpoint].min(offsets[checkpoint] * u64::from(checkpoint > 0));
        let error = open(&disk, checkpoint, false).unwrap_err();
        let OpenError::Damaged(damage) = error else { panic!("{error}") };
        assert_eq!(damage.from, offsets[kept]);
        let (log, _) = open(&disk, checkpoint, true).unwrap();
        assert!(log.head() >= damage.to, "no offset is used twice");
        assert_eq!(contents(&log, 0), (0..kept as u64).collect::<Vec<_>>());
    }
    let disk = Arc::new(MemoryDisk::default());
    let offsets = written(&disk);
    let middle = disk.list(DIR).unwrap()[2].clone();
    disk.remove(&format!("{DIR}/{middle}")).unwrap();
    assert!(matches!(open(&disk, offsets[59], false), Err(OpenError::Damaged(_))));
}

#[test]
fn a_lost_epoch_is_found_in_the_log() {
    let disk = Arc::new(MemoryDisk::default());
    let (log, _) = open(&disk, 0, false).unwrap();
    let limits = pawl_domain::event::JoinLimits::default();
    log.append_event(&Event::Opened { epoch: 41, at_ms: 0, limits }).unwrap();
    drop(log);
    disk.open("log/epoch").unwrap().set_len(0).unwrap();
    assert_eq!(open(&disk, 0, false).unwrap().0.epoch(), 42);
}

#[test]
fn every_flipped_bit_of_a_synced_record_is_seen() {
    let disk = Arc::new(MemoryDisk::default());
    let offsets = written(&disk);
    for byte in offsets[10]..offsets[11] {
        flip(&disk, byte);
        let seen = open(&disk, 0, false).is_err();
        let padding = byte >= offsets[10] + 20 + 1 + 2;
        assert!(seen || padding, "byte {}", byte - offsets[10]);
        flip(&disk, byte);
    }
}

#[test]
fn trimming_removes_whole_segments() {
    let disk = Arc::new(MemoryDisk::default());
    let offsets = written(&disk);
    let (log, _) = open(&disk, 0, false).unwrap();
    let boundary = log.boundary(offsets[50]);
    assert_eq!(log.trim(offsets[50]).unwrap(), boundary);
    assert!(boundary > 0 && boundary <= offsets[50]);
    assert!(matches!(log.read(0), Err(LogError::Absent(_))));
    drop(log);
    let (log, _) = open(&disk, boundary, false).unwrap();
    assert_eq!(log.first(), boundary);
    assert_eq!(contents(&log, offsets[60]), (60..100).collect::<Vec<_>>());
}

/// A record that is erased keeps its length, or it would be left as it is: of every length that a hash has in the log, and with what
/// says something of a person in every place.
#[test]
fn an_erased_record_is_as_long_as_it_was() {
    let hashes = (0..64).map(|bit| u64::MAX >> bit).chain((0..64).map(|bit| 1 << bit)).chain([0]);
    for hash in hashes {
        let mut decided = Decided {
            epoch: 1,
            nonce: 2,
            at_ms: 3,
            model: "m".parse().unwrap(),
            version: semver::Version::new(1, 0, 0),
            learner: LearnerId(1),
            snapshot: 0,
            clock: 0,
            context: r#"{"x":"héllo"}"#.to_owned(),
            eligible: vec![0],
            removed: Vec::new(),
            probabilities: vec![1.0],
            chosen: 0,
            outcome: Outcome::Ok,
            reason: None,
            caller: Caller {
                targeting_key: Some("üser".to_owned()),
                session_id: Some("s".to_owned()),
                metadata: Some(r#"{"a":1}"#.to_owned()),
                body_hash: Some(hash),
                ..Caller::default()
            },
            metrics: Vec::new(),
        };
        let before = frame::encode(&Event::Decided(decided.clone()));
        decided.erase();
        assert!(decided.is_erased());
        let after = frame::encode(&Event::Decided(decided.clone()));
        assert_eq!(after.len(), before.len(), "{hash:x}");
        for said in ["llo", "ser", "\"a\""] {
            assert!(!after.windows(said.len()).any(|w| w == said.as_bytes()), "{said}");
        }
        let left = decided.caller.body_hash.unwrap();
        assert!(left == 0 || (left.is_power_of_two() && left.ilog2().is_multiple_of(7)));
    }
}
