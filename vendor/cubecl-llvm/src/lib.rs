//! `cubecl-llvm` without LLVM: what `cubecl-cuda` 0.11.3 must be able to name.
//!
//! CubeCL can turn a kernel into PTX in two ways: CUDA C++ compiled by NVRTC, or LLVM. `cubecl-cuda` links both, and
//! the published LLVM half downloads a compiler while it is being built. Temper uses the first way only (feature
//! `cuda-cpp` of `cubecl`), so this crate puts empty types in the place of the second. Building for CUDA then needs
//! crates and nothing else. Where `cubecl-cuda` still asks for LLVM, it gets an error that says how to avoid asking.

use cubecl_core::CompilationError;
use cubecl_core::environment::backtrace::BackTrace;
use cubecl_core::ir::nvidia::SmArch;
use cubecl_core::prelude::KernelDefinition;
use cubecl_runtime::kernel::BufferIOAttr;

/// Names of the code generator for NVIDIA cards.
pub mod nvptx {
    /// Versions of the PTX language.
    pub mod ptx_version {
        use std::fmt;

        /// A version of PTX. There is none, because nothing here writes PTX.
        #[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
        pub enum PtxVersion {}

        impl PtxVersion {
            /// The newest version that a driver loads: unknown here, and not asked for when NVRTC compiles.
            #[must_use]
            pub const fn for_driver(_driver: i32) -> Option<Self> {
                None
            }
        }

        impl fmt::Display for PtxVersion {
            fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
                match *self {}
            }
        }
    }
}

/// Names shared by the code generators.
pub mod shared {
    /// What the LLVM code generators cannot do.
    pub mod lowered_features {
        use cubecl_core::ir::DeviceProperties;

        /// The kind of card that a restriction is for.
        #[derive(Clone, Copy, Debug, Eq, PartialEq)]
        pub enum GpuTarget {
            /// NVIDIA.
            Nvptx,
        }

        /// Leaves `properties` alone: only the LLVM code generator would have to restrict them.
        pub const fn restrict_features(_properties: &mut DeviceProperties, _target: GpuTarget) {}
    }
}

/// What the code generator would write for.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum LlvmTarget {
    /// NVIDIA.
    #[default]
    Nvptx,
}

/// The code generator that is not here.
#[derive(Clone, Debug, Default)]
pub struct PlironCompiler {
    /// What it would write for.
    pub target: LlvmTarget,
}

impl PlironCompiler {
    /// Compiles nothing.
    ///
    /// # Errors
    /// Always.
    pub fn compile(
        &mut self,
        _kernel: KernelDefinition,
        _options: &PlironOptions,
    ) -> Result<PlironArtifact, CompilationError> {
        Err(CompilationError::Generic {
            reason: "this build has no LLVM; build with the feature `cuda-cpp` of `cubecl`".into(),
            backtrace: BackTrace::capture(),
        })
    }

    /// The language of what is generated.
    #[must_use]
    pub const fn lang_tag(&self) -> &'static str {
        "llvm"
    }
}

/// What `cubecl-cuda` would tell the code generator about a device.
#[derive(Clone, Debug, Default)]
pub struct PlironOptions {
    /// The processor, of a target that has no compute capability.
    pub arch: Option<()>,
    /// The compute capability.
    pub sm_arch: Option<SmArch>,
    /// The newest PTX that the driver loads.
    pub ptx_version: Option<nvptx::ptx_version::PtxVersion>,
    /// Whether parameters of a launch are constants of the whole grid.
    pub grid_constants: bool,
}

/// What the code generator would give back.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum PlironArtifact {
    /// A module for NVIDIA cards.
    NvptxCode(NvptxModule),
}

/// A compiled kernel, as `cubecl-cuda` would load it.
#[derive(Clone, Debug)]
pub struct NvptxModule {
    /// PTX, ending in zero.
    pub ptx: Vec<core::ffi::c_char>,
    /// The name of the kernel in it.
    pub entrypoint: String,
    /// What PTX was made from, for logs.
    pub ir: String,
    /// Bytes of shared memory that a launch reserves.
    pub shared_memory_size: usize,
    /// Which buffers the kernel reads and which it writes.
    pub io: Vec<BufferIOAttr>,
}
