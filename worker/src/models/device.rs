//! Which device a model is for.

use super::LoadError;
#[cfg(feature = "cuda")]
use super::decoder::OpenGpu;

/// A device that this program computes on.
pub enum On {
    /// This machine's processor.
    Processor,
    /// A GPU that is open.
    #[cfg(feature = "cuda")]
    Gpu(Box<OpenGpu>),
}

impl On {
    /// "cpu" (or nothing), by the name that placement has for it.
    pub fn processor(device: &str) -> Result<Self, LoadError> {
        match device {
            "" | "cpu" => Ok(On::Processor),
            gpu if number(gpu).is_some() => Err(LoadError::NoDevice {
                device: gpu.into(),
                why: "bulkhead-worker-cuda is the program for GPUs; deploy/cuda/setup builds it",
            }),
            other => Err(unknown(other)),
        }
    }

    /// The GPU that a load names, opened: see [`OpenGpu::open`].
    #[cfg(feature = "cuda")]
    pub fn gpu(load: &bulkhead_proto::internal::Load) -> Result<Self, LoadError> {
        let number = number(&load.device).ok_or_else(|| unknown(&load.device))?;
        Ok(On::Gpu(Box::new(OpenGpu::open(number)?)))
    }
}

fn unknown(device: &str) -> LoadError {
    LoadError::NoDevice {
        device: device.into(),
        why: "known are cpu, cuda:0, cuda:1 and so on",
    }
}

/// The number of a GPU, 255 at most.
fn number(device: &str) -> Option<usize> {
    let number = device.strip_prefix("cuda:")?;
    let digits = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
    digits
        .then(|| number.parse::<u8>().ok())
        .flatten()
        .map(usize::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_processor_is_known_and_gpus_are_another_programs() {
        for name in ["", "cpu"] {
            assert!(matches!(On::processor(name), Ok(On::Processor)));
        }
        let why = |name| match On::processor(name) {
            Ok(_) => panic!("there is no such device"),
            Err(error) => {
                assert!(error.permanent());
                error.to_string()
            }
        };
        for name in [
            "gpu", "cuda", "cuda:", "cuda:x", "cuda:+1", "cuda:256", "CPU", "mig",
        ] {
            assert!(why(name).contains("known are cpu, cuda:0"), "{name}");
        }
        assert!(why("cuda:3").contains("bulkhead-worker-cuda"));
    }
}
