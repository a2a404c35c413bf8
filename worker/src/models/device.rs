//! Which device a model is for, by the name that placement has for it.

use super::LoadError;

/// A device that this program computes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum On {
    /// This machine's processor.
    Processor,
    /// The GPU of this number.
    #[cfg(feature = "cuda")]
    Gpu(usize),
}

impl On {
    /// "cpu" (or nothing), "cuda:0", "cuda:1"… A GPU only in the program that is built for them.
    pub fn named(device: &str) -> Result<Self, LoadError> {
        match device {
            "" | "cpu" => Ok(On::Processor),
            #[cfg(feature = "cuda")]
            gpu if number(gpu).is_some() => Ok(On::Gpu(number(gpu).unwrap_or_default())),
            #[cfg(not(feature = "cuda"))]
            gpu if number(gpu).is_some() => Err(LoadError::NoDevice {
                device: gpu.into(),
                why: "bulkhead-worker-cuda is the program for GPUs; deploy/cuda/setup builds it",
            }),
            other => Err(LoadError::NoDevice {
                device: other.into(),
                why: "known are cpu, cuda:0, cuda:1 and so on",
            }),
        }
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
    fn the_processor_is_known_and_a_gpu_only_where_it_is_built_in() {
        for name in ["", "cpu"] {
            assert_eq!(On::named(name).expect("it is there"), On::Processor);
        }
        for name in [
            "gpu", "cuda", "cuda:", "cuda:x", "cuda:+1", "cuda:256", "CPU", "mig",
        ] {
            let error = On::named(name).expect_err("there is no such device");
            assert!(
                error.to_string().contains("known are cpu, cuda:0"),
                "{error}"
            );
            assert!(error.permanent());
        }
        let gpu = On::named("cuda:3");
        #[cfg(feature = "cuda")]
        assert_eq!(gpu.expect("it is built in"), On::Gpu(3));
        #[cfg(not(feature = "cuda"))]
        {
            let error = gpu.expect_err("it is not built in").to_string();
            assert!(error.contains("bulkhead-worker-cuda"), "{error}");
        }
    }
}
