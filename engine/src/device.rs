//! Which device computes. The only place in the engine that names a backend; everything else takes a [`Device`].

use burn::tensor::{DType, Device, FloatDType};

/// A kind of device a recipe can name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    /// Burn's flex, in host memory. Always compiled in.
    Cpu,
    /// NVIDIA cards.
    Cuda,
    /// Any card with a Vulkan driver.
    Vulkan,
    /// Any card, through WGSL shaders.
    Wgpu,
    /// Apple cards.
    Metal,
}

/// All of them, in the order in which `auto` prefers them.
pub const BACKENDS: [Backend; 5] = [
    Backend::Cuda,
    Backend::Metal,
    Backend::Vulkan,
    Backend::Wgpu,
    Backend::Cpu,
];

impl Backend {
    /// The name in recipes and on the command line, and of the Cargo feature.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Cuda => "cuda",
            Self::Vulkan => "vulkan",
            Self::Wgpu => "wgpu",
            Self::Metal => "metal",
        }
    }

    /// Whether this binary was built with it.
    pub fn compiled(self) -> bool {
        match self {
            Self::Cpu => true,
            Self::Cuda => cfg!(feature = "cuda"),
            Self::Vulkan => cfg!(feature = "vulkan"),
            Self::Wgpu => cfg!(feature = "wgpu"),
            Self::Metal => cfg!(feature = "metal"),
        }
    }

    fn needs(self) -> &'static str {
        match self {
            Self::Cpu => "nothing",
            Self::Cuda => {
                "an NVIDIA driver (libcuda) and the CUDA runtime compiler (libnvrtc with its headers)"
            }
            Self::Vulkan | Self::Wgpu => {
                "a Vulkan driver (libvulkan and an ICD such as mesa-vulkan-drivers)"
            }
            Self::Metal => "an Apple device",
        }
    }
}

/// Why a device cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DeviceError {
    /// Not a device name.
    #[error(
        "unknown device `{name}`, expected auto, cpu, cuda, vulkan, wgpu or metal, optionally with an index as in `cuda:0`"
    )]
    Unknown {
        /// What was asked for.
        name: String,
    },
    /// The binary was built without it.
    #[error("this binary was built without `{name}`; it has {}. Build with `cargo build --release --features {name}`", compiled.join(", "))]
    NotCompiled {
        /// The device asked for.
        name: &'static str,
        /// What there is.
        compiled: Vec<&'static str>,
    },
    /// No such device in this machine, or its driver is missing.
    #[error("no device `{name}:{index}` here ({found} found); it needs {needs}{}", reason.as_ref().map(|r| format!(" (the driver says: {r})")).unwrap_or_default())]
    NotPresent {
        /// The backend.
        name: &'static str,
        /// The index asked for.
        index: usize,
        /// Devices of the backend that were found.
        found: usize,
        /// What must be installed.
        needs: &'static str,
        /// What went wrong while looking.
        reason: Option<String>,
    },
    /// The device cannot compute in that precision.
    #[error("`{device}` does not support {dtype} arithmetic; set `precision.compute` to one of {}", supported.join(", "))]
    Precision {
        /// The device.
        device: String,
        /// The precision asked for.
        dtype: &'static str,
        /// What it supports.
        supported: Vec<&'static str>,
    },
}

/// A device that was opened, with the name it has in logs.
#[derive(Clone, Debug)]
pub struct OpenDevice {
    /// What tensors are created on.
    pub device: Device,
    /// `cpu`, `cuda:0`, ….
    pub name: String,
    /// Its kind.
    pub backend: Backend,
}

/// What `temper devices` prints of one kind of device.
#[derive(Clone, Debug)]
pub struct DeviceReport {
    /// The kind.
    pub backend: Backend,
    /// One entry a device found.
    pub devices: Vec<OpenDevice>,
    /// Why none was found, if looking failed.
    pub problem: Option<String>,
}

/// Opens the device that a recipe names: `auto`, `cpu`, `cuda`, `cuda:1`, ….
///
/// `auto` takes the first present of CUDA, Metal, Vulkan, wgpu, CPU.
///
/// # Errors
/// A name that is none, a device that was not compiled in, or is not present.
///
/// # Examples
/// ```
/// assert_eq!(temper_engine::device::open("cpu")?.name, "cpu");
/// # Ok::<(), temper_engine::device::DeviceError>(())
/// ```
pub fn open(spec: &str) -> Result<OpenDevice, DeviceError> {
    if spec == "auto" {
        let mut first = BACKENDS.into_iter().filter(|backend| backend.compiled());
        let found = first.find_map(|backend| list(backend).devices.into_iter().next());
        return found.ok_or_else(|| DeviceError::Unknown {
            name: spec.to_owned(),
        });
    }
    let unknown = || DeviceError::Unknown {
        name: spec.to_owned(),
    };
    let (name, index) = spec.split_once(':').unwrap_or((spec, "0"));
    let index: usize = index.parse().map_err(|_| unknown())?;
    let backend = BACKENDS
        .into_iter()
        .find(|backend| backend.name() == name)
        .ok_or_else(unknown)?;
    if !backend.compiled() {
        let compiled = BACKENDS
            .into_iter()
            .filter(|b| b.compiled())
            .map(Backend::name)
            .collect();
        return Err(DeviceError::NotCompiled {
            name: backend.name(),
            compiled,
        });
    }
    let report = list(backend);
    let found = report.devices.len();
    report
        .devices
        .into_iter()
        .nth(index)
        .ok_or(DeviceError::NotPresent {
            name: backend.name(),
            index,
            found,
            needs: backend.needs(),
            reason: report.problem,
        })
}

/// The devices of one kind. A driver that panics is reported, never passed on.
pub fn list(backend: Backend) -> DeviceReport {
    let found = quietly(|| {
        let devices = enumerate(backend);
        // Opening a device that cannot compute must fail here, not in the first training step.
        devices
            .into_iter()
            .filter(|device| backend == Backend::Cpu || quietly(|| probe(device)).is_ok())
            .collect()
    });
    let (devices, problem): (Vec<Device>, _) = match found {
        Ok(devices) => (devices, None),
        Err(message) => (Vec::new(), Some(message)),
    };
    let open = |(index, device)| OpenDevice {
        device,
        name: if backend == Backend::Cpu {
            "cpu".to_owned()
        } else {
            format!("{}:{index}", backend.name())
        },
        backend,
    };
    DeviceReport {
        backend,
        devices: devices.into_iter().enumerate().map(open).collect(),
        problem,
    }
}

/// Every kind of device, compiled in or not.
pub fn list_all() -> Vec<DeviceReport> {
    BACKENDS
        .into_iter()
        .map(|backend| {
            if backend.compiled() {
                return list(backend);
            }
            let problem = Some(format!(
                "not compiled in: build with `--features {}`",
                backend.name()
            ));
            DeviceReport {
                backend,
                devices: Vec::new(),
                problem,
            }
        })
        .collect()
}

#[cfg(any(
    feature = "cuda",
    feature = "vulkan",
    feature = "wgpu",
    feature = "metal"
))]
fn enumerate(backend: Backend) -> Vec<Device> {
    use burn::tensor::DeviceType;
    match backend {
        #[cfg(feature = "cuda")]
        Backend::Cuda => Device::enumerate(DeviceType::Cuda).into_vec(),
        #[cfg(feature = "vulkan")]
        Backend::Vulkan => Device::enumerate(DeviceType::Vulkan).into_vec(),
        #[cfg(feature = "wgpu")]
        Backend::Wgpu => Device::enumerate(DeviceType::Wgpu).into_vec(),
        #[cfg(feature = "metal")]
        Backend::Metal => Device::enumerate(DeviceType::Metal).into_vec(),
        Backend::Cpu => vec![Device::flex()],
        _ => Vec::new(),
    }
}

#[cfg(not(any(
    feature = "cuda",
    feature = "vulkan",
    feature = "wgpu",
    feature = "metal"
)))]
fn enumerate(backend: Backend) -> Vec<Device> {
    if backend == Backend::Cpu {
        vec![Device::flex()]
    } else {
        Vec::new()
    }
}

/// One addition, read back.
fn probe(device: &Device) {
    let one = burn::tensor::Tensor::<1>::ones([8], device);
    let sum: f32 = (one.clone() + one).sum().into_scalar();
    assert!(
        (sum - 16.0).abs() < f32::EPSILON,
        "the device adds 1 and 1 to {}",
        sum / 8.0
    );
}

/// Runs `work`; a panic becomes its message, and prints nothing.
fn quietly<R>(work: impl FnOnce() -> R) -> Result<R, String> {
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
    std::panic::set_hook(hook);
    result.map_err(|payload| {
        let text = payload.downcast_ref::<String>().map(String::as_str);
        text.or_else(|| payload.downcast_ref::<&str>().copied())
            .unwrap_or("unknown reason")
            .to_owned()
    })
}

impl OpenDevice {
    /// Precisions of matrix products this device computes in.
    pub fn precisions(&self) -> Vec<FloatDType> {
        let full = |dtype: FloatDType| {
            dtype == FloatDType::F32
                || quietly(|| self.device.supports_dtype(dtype)).unwrap_or(false)
        };
        [FloatDType::F32, FloatDType::BF16, FloatDType::F16]
            .into_iter()
            .filter(|&dtype| full(dtype))
            .collect()
    }

    /// Checks a precision; `None` (auto) is bf16 on CUDA cards that have it, f32 elsewhere.
    ///
    /// # Errors
    /// [`DeviceError::Precision`].
    pub fn precision(&self, asked: Option<FloatDType>) -> Result<FloatDType, DeviceError> {
        let supported = self.precisions();
        let Some(asked) = asked else {
            let fast = self.backend == Backend::Cuda && supported.contains(&FloatDType::BF16);
            return Ok(if fast {
                FloatDType::BF16
            } else {
                FloatDType::F32
            });
        };
        if supported.contains(&asked) {
            return Ok(asked);
        }
        Err(DeviceError::Precision {
            device: self.name.clone(),
            dtype: dtype_name(asked.into()),
            supported: supported
                .into_iter()
                .map(|dtype| dtype_name(dtype.into()))
                .collect(),
        })
    }

    /// Bytes its allocator holds, where it reports them; resident memory of the process on `cpu`.
    pub fn memory_in_use(&self) -> Option<u64> {
        match self.backend {
            Backend::Cpu => crate::run::resident_bytes(),
            _ => self
                .device
                .memory_pool_usage()
                .map(|usage| usage.bytes_reserved),
        }
    }
}

/// `f32`, `bf16`, `f16`.
pub fn dtype_name(dtype: DType) -> &'static str {
    match dtype {
        DType::BF16 => "bf16",
        DType::F16 => "f16",
        _ => "f32",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_is_always_there_and_auto_finds_something() {
        assert_eq!(open("cpu").unwrap().backend, Backend::Cpu);
        assert!(open("auto").is_ok());
    }

    #[test]
    fn a_missing_device_is_an_error_that_says_what_to_do() {
        let message = |spec| open(spec).unwrap_err().to_string();
        assert!(message("tpu").contains("unknown device `tpu`"));
        assert!(message("cuda:x").contains("unknown device"));
        assert!(message("cpu:3").contains("no device `cpu:3`"));
        if !Backend::Cuda.compiled() {
            assert!(
                message("cuda:0").contains("--features cuda"),
                "{}",
                message("cuda:0")
            );
        }
    }

    #[test]
    fn a_panicking_driver_becomes_a_message() {
        assert_eq!(
            quietly(|| panic!("driver died")).map(|(): ()| ()),
            Err("driver died".to_owned())
        );
    }
}
