//! The simulated accelerator that benches and bars share, and a model for it that gives back what it gets.

use shoal_inference::{Compute, DType, ModelSource, ModelSpec, Port, SimConfig, SimDevice};
use std::sync::Arc;
use std::time::Duration;

/// A device that holds two runs.
pub(crate) fn simulated(launch: Duration, per_row: Duration, compute: Compute) -> SimDevice {
    SimDevice::new(SimConfig {
        name: "simulated".to_owned(),
        launch,
        per_row,
        depth: 2,
        memory_bytes: None,
        compute,
        faults: Vec::new(),
    })
}

/// Rows of one f32, `x`, given back as `y`.
pub(crate) fn echo() -> Compute {
    let port = |name: &str| Port {
        name: name.to_owned(),
        dtype: DType::F32,
        dims: vec![None, Some(1)],
    };
    Compute::Echo(ModelSpec {
        inputs: vec![port("x")],
        outputs: vec![port("y")],
        batchable: true,
    })
}

/// A model for a device that does not look at the file.
pub(crate) fn echo_source() -> ModelSource {
    ModelSource {
        name: "echo".to_owned(),
        onnx: Arc::from([]),
        tokenizer: None,
        dry_runs: Vec::new(),
    }
}
