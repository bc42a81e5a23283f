//! Admission: whether a file is a model that this node runs, and what it takes. It is loaded and run as a device would, with
//! nothing known of who sent it: call it in a process of its own, with limits on memory and CPU time. A file can be written
//! so that it takes all of either, and then it is that process that ends.

use crate::onnx::{Graphs, Threads};
use crate::plan::{Rows, TensorRef};
use crate::request::{ModelId, ModelSpec, Port};
use crate::tensor::byte_len;
use serde::{Deserialize, Serialize};
use std::num::NonZeroUsize;
use std::time::Duration;
use tokio::time::Instant;

/// Rows of the dry runs; of a model that cannot be batched, the first alone.
const ROWS: [u32; 3] = [1, 4, 16];
/// Runs of each size; the shortest counts, as the one that was disturbed least.
const RUNS_OF_A_SIZE: usize = 5;
/// What is put for dimensions that are open beyond the batch axis: the first with which the model runs. Most are lengths of
/// sequences, which are fine with few; pictures have to survive being halved several times.
const OPEN_SIZES: [u32; 3] = [8, 64, 256];
/// The one model of this process.
const MODEL: ModelId = ModelId(0);

/// What a check is held to, beside the limits of its process.
#[derive(Clone, Copy, Debug)]
pub struct CheckLimits {
    /// Most bytes of the file (`model_bytes_max`).
    pub model_bytes_max: u64,
    /// Most bytes of an input of one row (`tensor_bytes_max`): with more it could never be asked for.
    pub tensor_bytes_max: u64,
    /// Time for dry runs: none is begun that would not end within it, but for the first.
    pub runs_time_max: Duration,
}

/// What a model is and takes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelReport {
    /// Its inputs and outputs.
    pub spec: ModelSpec,
    /// Bytes by which this process grew, at its fullest, while it loaded the model and ran the largest of `runs`: resident
    /// memory as the kernel counts it, of which up to 16 MiB are the engine's own code. At least the file's.
    pub memory_bytes: u64,
    /// What was put for each dimension left open beyond the batch axis; `None` if there is none.
    pub open_size: Option<u32>,
    /// Time of runs of 1, 4 and 16 rows of zeros; larger ones are left out where there was no time, or no room in
    /// `tensor_bytes_max`.
    pub runs: Vec<DryRun>,
}

impl ModelReport {
    /// The dry runs as [`crate::ModelSource::dry_runs`] has them.
    pub fn cost(&self) -> Vec<(u64, u64)> {
        let size = u64::from(self.open_size.unwrap_or(1));
        let open = |port: &Port| {
            let first = usize::from(self.spec.batchable);
            let dims = port.dims.iter().skip(first);
            u32::try_from(dims.filter(|dim| dim.is_none()).count()).unwrap_or(u32::MAX)
        };
        let open = self.spec.inputs.iter().map(open).max().unwrap_or(0);
        let row_units = size.saturating_pow(open);
        let runs = self.runs.iter();
        runs.map(|run| (row_units.saturating_mul(u64::from(run.rows)), run.device_ns))
            .collect()
    }
}

/// What a run costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DryRun {
    /// Its rows.
    pub rows: u32,
    /// The shortest of a few, in nanoseconds, on one thread.
    pub device_ns: u64,
}

/// Why a file is not admitted, for the eyes of the model's owner.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CheckError {
    /// More bytes than the limit.
    #[error("model has {bytes} bytes, at most {limit} are allowed (model_bytes_max)")]
    TooLarge {
        /// Its size.
        bytes: u64,
        /// The limit.
        limit: u64,
    },
    /// It is no model, or one that does not run here, or not as it says.
    #[error("{0}")]
    Refused(String),
}

/// Loads and runs the model in this file.
///
/// # Errors
/// See [`CheckError`]. A panic of the engine is one; an allocation that has no room ends the process.
pub fn check_model(onnx: &[u8], limits: CheckLimits) -> Result<ModelReport, CheckError> {
    let bytes = onnx.len() as u64;
    if bytes > limits.model_bytes_max {
        let limit = limits.model_bytes_max;
        return Err(CheckError::TooLarge { bytes, limit });
    }
    let before = Resident::now();
    let threads = Threads::new(NonZeroUsize::MIN);
    let graphs = Graphs::new(threads.clone());
    let checked = threads.enter(move || dry_run(graphs, onnx, limits));
    let mut report = checked.map_err(CheckError::Refused)?;
    report.memory_bytes = Resident::now().peak.saturating_sub(before.now).max(bytes);
    Ok(report)
}

/// All of a report but for its memory.
fn dry_run(mut graphs: Graphs, onnx: &[u8], limits: CheckLimits) -> Result<ModelReport, String> {
    let ends = Instant::now() + limits.runs_time_max;
    let spec = graphs.load(MODEL, onnx)?;
    let sizes = if has_open_size(&spec) {
        &OPEN_SIZES[..]
    } else {
        &OPEN_SIZES[..1]
    };
    let bench = Bench {
        graphs,
        tensor_bytes_max: limits.tensor_bytes_max,
        ends,
        spec,
    };
    let (open_size, first) = bench.first_run(sizes)?;
    let mut runs: Vec<DryRun> = Vec::new();
    for rows in ROWS {
        let known = runs.last().copied().unwrap_or(first);
        if rows > 1 && !(bench.spec.batchable && bench.has_time(rows, known)) {
            break;
        }
        match bench.fastest(rows, open_size, known) {
            Ok(run) => runs.push(run),
            Err(Stop::NoRoom(_)) if rows > 1 => break,
            Err(Stop::NoRoom(why) | Stop::Fails(why)) => return Err(why),
        }
    }
    Ok(ModelReport {
        memory_bytes: 0,
        open_size: has_open_size(&bench.spec).then_some(open_size),
        runs,
        spec: bench.spec,
    })
}

/// A model that is loaded, and what its runs are held to.
struct Bench {
    graphs: Graphs,
    spec: ModelSpec,
    tensor_bytes_max: u64,
    ends: Instant,
}

/// Why there is no figure.
enum Stop {
    /// An input is over the limit.
    NoRoom(String),
    /// The model does not run, or not as it says.
    Fails(String),
}

impl Bench {
    /// One row, with the first of these sizes that works; else why the first does not.
    fn first_run(&self, sizes: &[u32]) -> Result<(u32, DryRun), String> {
        let mut refusal = None;
        for size in sizes {
            match self.run(1, *size) {
                Ok(run) => return Ok((*size, run)),
                Err(Stop::NoRoom(why) | Stop::Fails(why)) => refusal = refusal.or(Some(why)),
            }
        }
        Err(refusal.unwrap_or_default())
    }

    /// The shortest of a few runs.
    fn fastest(&self, rows: u32, open_size: u32, known: DryRun) -> Result<DryRun, Stop> {
        let mut fastest = self.run(rows, open_size)?;
        for _ in 1..RUNS_OF_A_SIZE {
            if !self.has_time(rows, known) {
                break;
            }
            let run = self.run(rows, open_size)?;
            fastest.device_ns = fastest.device_ns.min(run.device_ns);
        }
        Ok(fastest)
    }

    /// Whether a run of so many rows would end in time, if a row costs what it cost in `known`.
    fn has_time(&self, rows: u32, known: DryRun) -> bool {
        let expected = known.device_ns.saturating_mul(u64::from(rows)) / u64::from(known.rows);
        self.ends.saturating_duration_since(Instant::now()) > Duration::from_nanos(expected)
    }

    fn run(&self, rows: u32, open_size: u32) -> Result<DryRun, Stop> {
        let (plan, payload) = self.plan(rows, open_size).map_err(Stop::NoRoom)?;
        let began = Instant::now();
        let outputs = self.graphs.run(&plan, &payload);
        let device_ns = u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX);
        let outputs = outputs.map_err(|error| {
            Stop::Fails(format!(
                "model does not run with {rows} rows of zeros: {error}"
            ))
        })?;
        for (port, output) in self.spec.outputs.iter().zip(&outputs.requests[0]) {
            check_output(port, output).map_err(Stop::Fails)?;
        }
        Ok(DryRun { rows, device_ns })
    }

    /// One request of so many rows, all zeros: an index of 0 is in every table.
    fn plan(&self, rows: u32, open_size: u32) -> Result<(Rows, Vec<u8>), String> {
        let mut inputs = Vec::new();
        let mut offset = 0_u64;
        for port in &self.spec.inputs {
            let mut dims: Vec<u32> = port
                .dims
                .iter()
                .map(|dim| dim.unwrap_or(open_size))
                .collect();
            if self.spec.batchable {
                dims[0] = rows;
            }
            let len = byte_len(port.dtype, &dims).unwrap_or(u64::MAX);
            let limit = self.tensor_bytes_max;
            if len > limit {
                return Err(format!(
                    "input {:?} takes {len} bytes with {rows} rows, at most {limit} are allowed (tensor_bytes_max)",
                    port.name
                ));
            }
            inputs.push(TensorRef {
                dtype: port.dtype,
                dims,
                offset,
                len,
            });
            offset += len;
        }
        let payload = usize::try_from(offset).map_err(|_| "inputs take too many bytes")?;
        let plan = Rows {
            model: MODEL,
            requests: vec![inputs],
        };
        Ok((plan, vec![0; payload]))
    }
}

/// Whether a caller chooses more than the rows.
fn has_open_size(spec: &ModelSpec) -> bool {
    let first = usize::from(spec.batchable);
    let mut open = spec
        .inputs
        .iter()
        .flat_map(|port| port.dims.iter().skip(first));
    open.any(Option::is_none)
}

/// Rank and every fixed dimension; type and rows have been checked where the output was made.
fn check_output(port: &Port, output: &TensorRef) -> Result<(), String> {
    let declared = |(dim, declared): (&u32, &Option<u32>)| declared.is_none_or(|size| size == *dim);
    let fits =
        output.dims.len() == port.dims.len() && output.dims.iter().zip(&port.dims).all(declared);
    if fits {
        return Ok(());
    }
    Err(format!(
        "output {:?} came as {:?}, the file declares {}",
        port.name,
        output.dims,
        port.shape()
    ))
}

/// Resident memory of this process in bytes. Source: proc(5), `/proc/pid/status`. 0 where there is no such file.
struct Resident {
    now: u64,
    peak: u64,
}

impl Resident {
    fn now() -> Self {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let bytes = |key: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(key));
            let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
            kib.unwrap_or(0).saturating_mul(1 << 10)
        };
        Self {
            now: bytes("VmRSS:"),
            peak: bytes("VmHWM:"),
        }
    }
}
