//! Models whose files are not what was installed: each change is on record once, and counted each time
//! that a worker was refused because of it.
//!
//! Told by the launcher, which compares what it hashed, and by workers, which hash what they read.
//! What a worker says of its own model can harm nobody but whom it would have served.

use super::{audit_log::AuditLog, metrics, records};
use bulkhead_proto::internal::{ModelFault, RecordKind, WeightsChanged};
use parking_lot::Mutex;
use std::collections::BTreeMap;

/// Longest words of a fault that are kept and recorded, bytes.
const WORDS_BYTES_MAX: usize = 512;

/// Workers that a record of changed weights names at most.
const WORKERS_MAX: usize = 256;

/// The faults that are known. Bounded by the models that there are.
pub struct Faults {
    audit: AuditLog,
    /// The last of each model.
    known: Mutex<BTreeMap<String, ModelFault>>,
}

impl Faults {
    pub fn new(audit: AuditLog) -> Faults {
        Faults {
            audit,
            known: Mutex::default(),
        }
    }

    /// A worker of `model`, which is one of ours, was refused because of a file. Recorded if that is new.
    pub fn note(&self, model: &str, fault: &ModelFault) {
        metrics::model_fault(model);
        let fault = ModelFault {
            model: model.into(),
            file: bounded(&fault.file),
            what: bounded(&fault.what),
            found_sha256: bounded(&fault.found_sha256),
        };
        let mut known = self.known.lock();
        if known.get(model) == Some(&fault) {
            return;
        }
        let details = serde_json::json!({
            "model": fault.model,
            "file": fault.file,
            "what": fault.what,
            "found_sha256": fault.found_sha256,
        });
        tracing::error!(model, file = %fault.file, what = %fault.what, "a model's file is refused");
        let body = records::act("model.refused", details);
        // Kept until the log opens, like every record.
        let _ = self.audit.append_end("", RecordKind::System, "", body);
        known.insert(model.into(), fault);
    }

    /// Weights of a model, which is one of ours, were changed on a GPU while workers shared them. Each time is recorded:
    /// one of those workers was taken over, or the GPU is faulty.
    pub fn weights_changed(&self, told: &WeightsChanged) {
        metrics::weights_changed(&told.model);
        let (model, device) = (&told.model, bounded(&told.device));
        let workers = &told.workers[..told.workers.len().min(WORKERS_MAX)];
        let details = serde_json::json!({
            "model": model,
            "device": device,
            "offset": told.offset,
            "workers": workers,
        });
        tracing::error!(model, %device, offset = told.offset, "shared weights were changed; their workers are ended");
        let body = records::act("weights.changed", details);
        // Kept until the log opens, like every record.
        let _ = self.audit.append_end("", RecordKind::System, "", body);
    }

    /// A worker of this model serves: what was wrong is mended, and would be new if it came again.
    pub fn mended(&self, model: &str) {
        self.known.lock().remove(model);
    }

    /// What is wrong with this model, for operators.
    pub fn of(&self, model: &str) -> Option<String> {
        let known = self.known.lock();
        known
            .get(model)
            .map(|fault| format!("{} {}", fault.file, fault.what))
    }

    /// What to tell those who asked for this model; empty where no file of it is at fault. Names no
    /// file: that is the operator's.
    pub fn told(&self, model: &str) -> &'static str {
        match self.known.lock().contains_key(model) {
            true => {
                "a file of this model is not the one that was installed, so it is refused; the \
                 operator finds it in the audit log, and `bulkhead models verify` names it"
            }
            false => "",
        }
    }
}

fn bounded(words: &str) -> String {
    let mut end = words.len().min(WORDS_BYTES_MAX);
    while !words.is_char_boundary(end) {
        end -= 1;
    }
    words[..end].into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(found: &str) -> ModelFault {
        ModelFault {
            file: "model.gguf".into(),
            what: "is another".into(),
            found_sha256: found.into(),
            ..ModelFault::default()
        }
    }

    #[test]
    fn a_change_is_recorded_once_and_again_when_it_is_another() {
        let audit = AuditLog::new([7; 16], 16);
        let faults = Faults::new(audit.clone());
        assert_eq!(faults.told("m"), "");
        faults.note("m", &fault("a"));
        faults.note("m", &fault("a"));
        assert_eq!(audit.pending(), 1);
        faults.note("m", &fault("b"));
        assert_eq!(audit.pending(), 2);
        assert!(faults.told("m").contains("not the one") && faults.told("n").is_empty());
        faults.mended("m");
        faults.note("m", &fault("b"));
        assert_eq!(audit.pending(), 3);
    }

    #[test]
    fn each_change_of_shared_weights_is_recorded() {
        let audit = AuditLog::new([7; 16], 16);
        let faults = Faults::new(audit.clone());
        let told = WeightsChanged {
            model: "m".into(),
            device: "cuda:0".into(),
            offset: 65_536,
            workers: vec![3; 1000],
        };
        faults.weights_changed(&told);
        faults.weights_changed(&told);
        assert_eq!(audit.pending(), 2);
        // Its files are what they were.
        assert_eq!(faults.told("m"), "");
    }

    #[test]
    fn words_are_cut_at_a_character() {
        assert_eq!(bounded(&"é".repeat(WORDS_BYTES_MAX)).len(), WORDS_BYTES_MAX);
    }
}
