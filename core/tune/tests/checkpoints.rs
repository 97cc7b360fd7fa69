//! Checkpoints survive bit for bit or are refused; an interrupted write loses nothing.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use proptest::prelude::*;
use thumbprint_tune::checkpoint::{
    Checkpoint, CheckpointError, CheckpointMeta, CheckpointProblem, Cursor, Hashes,
};
use thumbprint_tune::durable;
use thumbprint_tune::objective::BcoState;
use thumbprint_tune::rng::Rng;

fn hashes() -> Hashes {
    let hash = |c: &str| c.repeat(64);
    Hashes {
        base_model: hash("a"),
        data: hash("b"),
        config: hash("c"),
        plan: hash("d"),
    }
}

fn checkpoint(n: usize, seed: u64) -> Checkpoint {
    let mut rng = Rng::new(seed);
    let mut draw = || {
        (0..n)
            .map(|_| f32::from_bits(rng.next_u64() as u32))
            .collect::<Vec<f32>>()
    };
    let (values, m, v) = (draw(), draw(), draw());
    let meta = CheckpointMeta {
        hashes: hashes(),
        optimizer_step: seed,
        cursor: Cursor {
            epoch: 3,
            position: 17,
            order_seed: u64::MAX,
        },
        bco: BcoState {
            desirable_mean: rng.normal() * 1e-300,
            undesirable_mean: -0.1 - f64::EPSILON,
        },
        rng,
        progress: serde_json::json!({ "best_loss": 0.1 + 0.2, "stage": "train" }),
    };
    Checkpoint { meta, values, m, v }
}

fn bits(c: &Checkpoint) -> Vec<u32> {
    [&c.values, &c.m, &c.v]
        .into_iter()
        .flatten()
        .map(|x| x.to_bits())
        .collect()
}

fn assert_same(a: &Checkpoint, b: &Checkpoint) {
    assert_eq!(bits(a), bits(b));
    assert_eq!(a.meta, b.meta);
    let bco = |c: &Checkpoint| {
        [
            c.meta.bco.desirable_mean.to_bits(),
            c.meta.bco.undesirable_mean.to_bits(),
        ]
    };
    assert_eq!(bco(a), bco(b));
}

fn load(path: &Path) -> Result<Checkpoint, CheckpointError> {
    Checkpoint::load(path, &hashes()).map(|c| c.expect("the file is there"))
}

fn files_in(folder: &Path) -> Vec<PathBuf> {
    fs::read_dir(folder)
        .unwrap()
        .map(|e| e.unwrap().path())
        .collect()
}

#[test]
fn a_checkpoint_comes_back_bit_for_bit() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("run.checkpoint");
    assert!(Checkpoint::load(&path, &hashes()).unwrap().is_none());
    for n in [0, 1, 4095, 4096, 10_001] {
        // Random bits: NaNs with payloads, infinities and subnormals among them.
        let written = checkpoint(n, 5 + n as u64);
        written.save(&path).unwrap();
        assert_same(&load(&path).unwrap(), &written);
    }
    assert_eq!(files_in(folder.path()), [path]);
}

proptest! {
    #[test]
    fn means_and_random_states_come_back_bit_for_bit(a in any::<u64>(), b in any::<u64>(), seed in any::<u64>()) {
        let finite = |bits: u64| Some(f64::from_bits(bits)).filter(|x| x.is_finite()).unwrap_or(1.5);
        let mut written = checkpoint(3, seed);
        written.meta.bco = BcoState { desirable_mean: finite(a), undesirable_mean: finite(b) };
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("c");
        written.save(&path).unwrap();
        assert_same(&load(&path).unwrap(), &written);
    }
}

#[test]
fn a_file_cut_anywhere_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("c");
    checkpoint(40, 1).save(&path).unwrap();
    let whole = fs::read(&path).unwrap();
    for length in 0..whole.len() {
        fs::write(&path, &whole[..length]).unwrap();
        let problem = load(&path).unwrap_err().problem;
        assert!(
            matches!(problem, CheckpointProblem::Length { .. }),
            "{length}: {problem}"
        );
    }
    fs::write(&path, [whole.as_slice(), b"x"].concat()).unwrap();
    assert!(matches!(
        load(&path).unwrap_err().problem,
        CheckpointProblem::Length { .. }
    ));
}

#[test]
fn a_file_changed_anywhere_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("c");
    checkpoint(40, 1).save(&path).unwrap();
    let whole = fs::read(&path).unwrap();
    for at in 0..whole.len() {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x10;
        fs::write(&path, &bytes).unwrap();
        let problem = load(&path).unwrap_err().problem;
        let right = match at {
            0..8 => matches!(problem, CheckpointProblem::Magic),
            8..12 => matches!(problem, CheckpointProblem::Version { .. }),
            12..16 => matches!(problem, CheckpointProblem::Checksum),
            16..32 => matches!(problem, CheckpointProblem::Length { .. }),
            _ => matches!(problem, CheckpointProblem::Checksum),
        };
        assert!(right, "byte {at}: {problem}");
    }
}

#[test]
fn a_checkpoint_of_another_run_says_what_differs() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("c");
    checkpoint(4, 1).save(&path).unwrap();
    let mut other = hashes();
    other.data = "e".repeat(64);
    other.plan = "f".repeat(64);
    let error = Checkpoint::load(&path, &other).unwrap_err();
    let CheckpointProblem::Different(parts) = &error.problem else {
        panic!("{error}")
    };
    assert_eq!(parts, &["training data", "resolved plan"]);
    assert!(
        error
            .to_string()
            .contains("(different: training data, resolved plan)"),
        "{error}"
    );
    assert!(load(&path).is_ok(), "it is still there for its own run");
}

#[test]
fn moments_that_do_not_belong_to_the_values_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let mut broken = checkpoint(4, 1);
    broken.v.pop();
    let error = broken.save(&folder.path().join("c")).unwrap_err();
    assert!(matches!(
        error.problem,
        CheckpointProblem::Lengths {
            values: 4,
            m: 4,
            v: 3
        }
    ));
    assert!(files_in(folder.path()).is_empty());
}

#[test]
fn a_write_that_fails_at_any_point_leaves_the_old_file_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("c");
    let old = checkpoint(40, 1);
    old.save(&path).unwrap();
    // More than the buffer holds, so that some of it reaches the disk before the failure.
    for good_pieces in [0, 1, 5, 40] {
        let error = durable::replace(&path, |out| {
            (0..good_pieces).try_for_each(|_| out.write_all(&[7; 5000]))?;
            Err(io::Error::from(io::ErrorKind::StorageFull))
        })
        .unwrap_err();
        assert_eq!(error.source.kind(), io::ErrorKind::StorageFull);
        assert!(
            error
                .to_string()
                .contains("what it held before is unchanged"),
            "{error}"
        );
        assert_same(&load(&path).unwrap(), &old);
        assert_eq!(files_in(folder.path()), std::slice::from_ref(&path));
    }
}

#[test]
fn what_a_killed_process_left_does_not_matter_and_can_be_removed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("c");
    let written = checkpoint(40, 1);
    written.save(&path).unwrap();
    let half = &fs::read(&path).unwrap()[..100];
    // Names that this process would use itself (in a container every process may have the same number), and another's.
    let own = (0..200).map(|n| format!(".c.{}-{n}.tmp", std::process::id()));
    let leftovers: Vec<String> = own.chain([".c.99999999-3.tmp".to_owned()]).collect();
    leftovers
        .iter()
        .for_each(|name| fs::write(folder.path().join(name), half).unwrap());
    fs::write(folder.path().join(".other.1-0.tmp"), half).unwrap();

    assert_same(&load(&path).unwrap(), &written);
    checkpoint(40, 2).save(&path).unwrap();
    assert_same(&load(&path).unwrap(), &checkpoint(40, 2));
    assert!(durable::remove_leftovers(&path).unwrap() > 0);
    assert_same(&load(&path).unwrap(), &checkpoint(40, 2));
    assert_eq!(
        files_in(folder.path()).len(),
        2,
        "a temporary file of another path stays"
    );
}

#[test]
fn a_folder_that_does_not_exist_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let error = checkpoint(4, 1)
        .save(&folder.path().join("absent/c"))
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("cannot create a temporary file beside") && error.contains("absent"),
        "{error}"
    );
}

/// The real thing: a limit on file sizes makes the system refuse the bytes beyond it, as a full disk does.
#[cfg(unix)]
#[test]
fn a_disk_that_fills_up_while_saving_leaves_the_old_checkpoint() {
    const CHILD: &str = "THUMBPRINT_TEST_CHECKPOINT";
    let big = || checkpoint(100_000, 2);
    if let Some(path) = std::env::var_os(CHILD) {
        let error = big().save(Path::new(&path)).unwrap_err();
        assert!(
            matches!(error.problem, CheckpointProblem::Write(_)),
            "{error}"
        );
        println!("refused");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("c");
    let old = checkpoint(40, 1);
    old.save(&path).unwrap();
    // Blocks of 512 or 1024 bytes, by shell; the checkpoint has 1.2 million bytes. Ignored, the signal becomes an error.
    let script = "trap '' XFSZ; ulimit -f 200; exec \"$0\" --exact a_disk_that_fills_up_while_saving_leaves_the_old_checkpoint --nocapture";
    let child = Command::new("sh")
        .args(["-c", script])
        .arg(std::env::current_exe().unwrap())
        .env(CHILD, &path)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&child.stdout).into_owned()
        + &String::from_utf8_lossy(&child.stderr);
    assert!(child.status.success() && said.contains("refused"), "{said}");
    assert_same(&load(&path).unwrap(), &old);
    assert_eq!(files_in(folder.path()), std::slice::from_ref(&path));
    big().save(&path).unwrap();
    assert_same(&load(&path).unwrap(), &big());
}
