//! A keeper over memory of pretend, which others can write: told what it lent, and looked after.

use super::*;
use bulkhead_kernels::digest;
use bulkhead_proto::internal::ModelFile;
use std::sync::{Arc, Mutex};
use std::thread;

/// Memory of the process's own, which stands for a GPU's.
#[derive(Clone, Default)]
struct Pretend(Arc<Mutex<Vec<u8>>>);

impl Lender for Pretend {
    fn take(&mut self, bytes: usize) -> Result<(), LoadError> {
        self.0.lock().unwrap().resize(bytes, 0);
        Ok(())
    }

    fn write(&mut self, offset: usize, bytes: &[u8]) -> Result<(), LoadError> {
        self.0.lock().unwrap()[offset..][..bytes.len()].copy_from_slice(bytes);
        Ok(())
    }

    fn lend(&mut self) -> Result<(u64, OwnedFd), LoadError> {
        let bytes = self.0.lock().unwrap().len() as u64;
        Ok((bytes, unchangeable(b"handle").unwrap()))
    }

    fn digests(&mut self, key: &Key) -> Result<Vec<u64>, LoadError> {
        Ok(digest::digests(key, &self.0.lock().unwrap()))
    }
}

/// What a keeper says next.
fn heard(control: &OwnedFd) -> Option<(Tell, Option<OwnedFd>)> {
    let (message, beside) = packet::recv::<FromKeeper>(control.as_fd()).unwrap()?;
    Some((message.message.unwrap(), beside))
}

fn over(memory: &Pretend) -> Lent {
    let key = Key::from_random([7; 16]);
    let mut lender = Box::new(memory.clone());
    let digests = lender.digests(&key).unwrap();
    Lent {
        lender,
        key,
        digests,
    }
}

#[test]
fn a_change_by_whoever_has_the_memory_is_told_at_the_next_look() {
    let memory = Pretend::default();
    memory.0.lock().unwrap().resize(3 * PIECE_BYTES, 5);
    let lent = over(&memory);
    let (ours, theirs) = packet::pair().unwrap();
    let keeper = thread::spawn(move || watch(&theirs, lent, Duration::ZERO).is_ok());
    for _ in 0..3 {
        assert!(matches!(
            heard(&ours),
            Some((Tell::WeightsChecked(_), None))
        ));
    }
    memory.0.lock().unwrap()[2 * PIECE_BYTES - 1] ^= 1;
    let changed = loop {
        match heard(&ours) {
            Some((Tell::WeightsChecked(_), None)) => {}
            Some((Tell::PieceChanged(changed), None)) => break changed,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(changed.offset, PIECE_BYTES as u64);
    assert!(heard(&ours).is_none() && keeper.join().unwrap());
}

#[test]
fn a_keeper_whose_launcher_is_gone_ends() {
    let (ours, theirs) = packet::pair().unwrap();
    drop(ours);
    let ended = watch(
        &theirs,
        over(&Pretend::default()),
        Duration::from_secs(3600),
    );
    assert!(ended.is_ok());
}

#[test]
fn any_difference_is_a_change() {
    assert_eq!(first_change(&[1, 2], &[1, 2]), None);
    assert_eq!(first_change(&[1, 2], &[1, 3]), Some(PIECE_BYTES as u64));
    for now in [&[][..], &[1], &[1, 2, 3], &[0, 2]] {
        assert!(first_change(&[1, 2], now).is_some(), "{now:?}");
    }
}

#[test]
fn what_is_handed_on_cannot_be_changed() {
    let file = File::from(unchangeable(b"table").unwrap());
    assert!((&file).write_all(b"other").is_err() && file.set_len(1).is_err());
    assert_eq!(file.metadata().unwrap().len(), 5);
}

/// What can be shared, and what is said of the rest.
#[test]
fn quantised_models_and_processors_are_not_lent() {
    let error = models::lender(models::On::Processor)
        .err()
        .expect("it lends nothing");
    assert!(error.to_string().contains("templates"), "{error}");
    let load = Load {
        format: "gguf".into(),
        files: vec![ModelFile::default()],
        ..Load::default()
    };
    let mut lender = Pretend::default();
    let error = models::lay_out(&load, Vec::new(), &mut lender).expect_err("not of a GGUF");
    let refusal = KeeperError::from(error).refusal();
    assert!(
        refusal.permanent && refusal.reason.contains("share_weights = false"),
        "{refusal:?}"
    );
}
