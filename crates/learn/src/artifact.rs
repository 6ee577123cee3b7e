//! Artifacts: what a learner knows as one file, in the safetensors format.
//!
//! The header's metadata has one key, `pawl`: a JSON object with the format, the spec, and how its features become
//! slots. Each array is a tensor of its own, so that other programs can read it; everything else that the learner needs
//! to go on is in the tensor `state`.

use core::fmt;

use pawl_domain::CheckedSpec;
use pawl_model::{HashKey, Layout, Views, counts::Count};
use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use serde::{Deserialize, Serialize};

use crate::{
    learner::Learner,
    linear::Linear,
    metric::{MetricState, Models},
    online::Totals,
    progress::Progress,
};

/// The version of this format.
const FORMAT: u32 = 1;
/// The key of the metadata.
const KEY: &str = "pawl";
/// The tensor of what is no array.
const STATE: &str = "state";

/// Why bytes are no artifact that this version reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArtifactError(String);

impl fmt::Display for ArtifactError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl core::error::Error for ArtifactError {}

impl ArtifactError {
    pub(crate) const fn new(why: String) -> Self {
        Self(why)
    }
}

fn wrong(why: impl fmt::Display) -> ArtifactError {
    ArtifactError(why.to_string())
}

/// What a file holds.
#[derive(Clone, Debug)]
pub struct Artifact {
    /// The spec of its model.
    pub spec: CheckedSpec,
    /// The learner, as it was but for examples that waited for their batch. Its monitors begin anew.
    pub learner: Learner,
    /// Where words are hashed under a key: the fingerprint of that key.
    pub hash_key: Option<String>,
}

/// What is kept of a learner beside its arrays. Part of the format: a change is a new one.
#[derive(Serialize, Deserialize)]
pub(crate) struct Parts {
    pub examples: u64,
    pub decisions: u64,
    pub time_ms: u64,
    pub decayed: (u64, u64),
    pub refused: u64,
    pub progress: Progress,
    pub metrics: Vec<MetricParts>,
}

/// The same of one metric.
#[derive(Serialize, Deserialize)]
pub(crate) struct MetricParts {
    pub pooled: Count,
    pub seen: Option<[f64; 2]>,
    pub models: ModelParts,
}

/// The same of its models.
#[derive(Serialize, Deserialize)]
pub(crate) enum ModelParts {
    Counts(Vec<Count>),
    /// Examples since the last rebuild, examples taken.
    Linear(Vec<(u32, u64)>),
    Online(Vec<Totals>),
}

/// The metadata.
#[derive(Serialize, Deserialize)]
struct Header {
    format: u32,
    spec: serde_json::Value,
    examples: u64,
    encoder: Encoder,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    hash_key: Option<String>,
}

/// How a context becomes slots.
#[derive(PartialEq, Serialize, Deserialize)]
struct Encoder {
    hash: String,
    layouts: Vec<MetricLayout>,
}

#[derive(PartialEq, Serialize, Deserialize)]
struct MetricLayout {
    metric: String,
    slots: usize,
    /// Term, first slot, number of slots.
    blocks: Vec<(String, usize, usize)>,
}

impl Encoder {
    fn of(spec: &CheckedSpec, views: &Views) -> Self {
        let metrics = spec.metrics().iter().enumerate();
        let layout = |(m, metric): (usize, &pawl_domain::spec::Metric)| {
            MetricLayout::of(&metric.name, views.layout(m))
        };
        Self { hash: "xxh3-64".to_owned(), layouts: metrics.map(layout).collect() }
    }
}

impl MetricLayout {
    fn of(metric: &str, layout: &Layout) -> Self {
        let blocks = layout.blocks.iter().map(|b| (b.key.clone(), b.start, b.len)).collect();
        Self { metric: metric.to_owned(), slots: layout.slots, blocks }
    }
}

/// One array of a learner.
pub(crate) enum Array<'a> {
    Numbers(&'a mut Vec<f64>),
    Indices(&'a mut Vec<u32>),
}

/// Calls for every array of a learner, with its name and shape: to take it out, or to put it in.
pub(crate) type Visit<'v> =
    &'v mut dyn FnMut(String, &[usize], Array<'_>) -> Result<(), ArtifactError>;

impl Linear {
    fn arrays(&mut self, name: &str, visit: Visit<'_>) -> Result<(), ArtifactError> {
        let posterior = std::sync::Arc::make_mut(&mut self.posterior);
        let full = posterior.full;
        let slots = [posterior.u.len()];
        let mut numbers = |what: &str, shape: &[usize], values: &mut Vec<f64>| {
            visit(format!("{name}/{what}"), shape, Array::Numbers(values))
        };
        numbers("u", &slots, &mut posterior.u)?;
        numbers("v", &slots, &mut posterior.v)?;
        numbers("covariance", &[full, full], &mut posterior.covariance)?;
        let beyond = [posterior.variances.len()];
        numbers("variances", &beyond, &mut posterior.variances)?;
        if let Some(statistics) = &mut self.statistics {
            let statistics = std::sync::Arc::make_mut(statistics);
            numbers("a", &[full, full], &mut statistics.a)?;
            numbers("b", &[full], &mut statistics.b)?;
            numbers("s", &[full], &mut statistics.s)?;
        }
        Ok(())
    }
}

impl MetricState {
    /// The lengths of the arrays of a linear model.
    fn sizes(&self) -> Vec<[usize; 7]> {
        let linear = |l: &Linear| {
            let p = &l.posterior;
            let [a, b, s] =
                l.statistics.as_ref().map_or([0; 3], |s| [s.a.len(), s.b.len(), s.s.len()]);
            [p.u.len(), p.v.len(), p.covariance.len(), p.variances.len(), a, b, s]
        };
        match &self.models {
            Models::PerAction(models) => models.iter().map(linear).collect(),
            Models::Joint(model) => vec![linear(model)],
            Models::Counts(_) | Models::Online(_) => Vec::new(),
        }
    }

    fn arrays(
        &mut self,
        actions: &[pawl_domain::ActionName],
        visit: Visit<'_>,
    ) -> Result<(), ArtifactError> {
        let name = &self.name;
        match &mut self.models {
            Models::PerAction(models) => models
                .iter_mut()
                .zip(actions)
                .try_for_each(|(model, action)| model.arrays(&format!("{name}/{action}"), visit)),
            Models::Joint(model) => model.arrays(&format!("{name}/joint"), visit),
            Models::Counts(_) => Ok(()),
            Models::Online(models) => models
                .iter_mut()
                .zip(actions)
                .try_for_each(|(model, action)| model.arrays(&format!("{name}/{action}"), visit)),
        }
    }
}

impl Learner {
    fn arrays(&mut self, visit: Visit<'_>) -> Result<(), ArtifactError> {
        let actions = self.actions.clone();
        self.metrics.iter_mut().try_for_each(|metric| metric.arrays(&actions, visit))
    }
}

/// Bytes of a tensor.
struct Tensor {
    name: String,
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

impl Artifact {
    /// The file of a learner of `spec` whose words were hashed under `key`.
    ///
    /// # Errors
    /// If it cannot be written in this format: never, for a learner of this spec.
    pub fn write(
        spec: &CheckedSpec,
        learner: &Learner,
        key: &HashKey,
    ) -> Result<Vec<u8>, ArtifactError> {
        let views = Views::of(spec);
        let parts = learner.parts();
        let mut learner = learner.clone();
        let mut tensors = Vec::new();
        learner.arrays(&mut |name, shape, array| {
            let (dtype, bytes) = match array {
                Array::Numbers(v) => {
                    (Dtype::F64, core::mem::take(v).iter().flat_map(|v| v.to_le_bytes()).collect())
                }
                Array::Indices(v) => {
                    (Dtype::U32, core::mem::take(v).iter().flat_map(|v| v.to_le_bytes()).collect())
                }
            };
            tensors.push(Tensor { name, dtype, shape: shape.to_vec(), bytes });
            Ok(())
        })?;
        let state = postcard::to_stdvec(&parts).map_err(wrong)?;
        let shape = vec![state.len()];
        tensors.push(Tensor { name: STATE.to_owned(), dtype: Dtype::U8, shape, bytes: state });
        let header = Header {
            format: FORMAT,
            spec: serde_json::from_str(&spec.to_json()).map_err(wrong)?,
            examples: parts.examples,
            encoder: Encoder::of(spec, &views),
            hash_key: spec.is_keyed().then(|| key.fingerprint()),
        };
        let header = serde_json::to_string(&header).map_err(wrong)?;
        let mut views = Vec::with_capacity(tensors.len());
        for Tensor { name, dtype, shape, bytes } in &tensors {
            views.push((name, TensorView::new(*dtype, shape.clone(), bytes).map_err(wrong)?));
        }
        // One key: several would stand in an order of chance.
        let metadata = [(KEY.to_owned(), header)].into_iter().collect();
        safetensors::serialize(views, Some(metadata)).map_err(wrong)
    }

    /// Reads a file.
    ///
    /// # Errors
    /// If it is damaged, of a newer format, or does not hold together.
    pub fn read(bytes: &[u8]) -> Result<Self, ArtifactError> {
        let (_, metadata) = SafeTensors::read_metadata(bytes).map_err(wrong)?;
        let header = metadata.metadata().as_ref().and_then(|m| m.get(KEY));
        let header =
            header.ok_or_else(|| wrong("its header has no `pawl`: another program wrote it"))?;
        #[derive(Deserialize)]
        struct Format {
            format: u32,
        }
        let Format { format } = serde_json::from_str(header).map_err(wrong)?;
        if format != FORMAT {
            return Err(wrong(format!("its format is {format}, this version reads {FORMAT}")));
        }
        let header: Header = serde_json::from_str(header).map_err(wrong)?;
        let spec = CheckedSpec::from_json(&header.spec.to_string()).map_err(wrong)?;
        let tensors = SafeTensors::deserialize(bytes).map_err(wrong)?;
        let state = tensors.tensor(STATE).map_err(wrong)?;
        // Nothing is made as large as the file says: only as large as its spec does, which was checked.
        let parts: Parts = postcard::from_bytes(state.data()).map_err(wrong)?;
        let views = Views::of(&spec);
        let known = Encoder::of(&spec, &views);
        if header.encoder == known {
            let learner = read_learner(&spec, &views, parts, &tensors)?;
            return Ok(Self { spec, learner, hash_key: header.hash_key });
        }
        // Words were hashed without a key once. What was learned of those slots is of no use any more.
        let before = spec.unkeyed();
        let views_before = Views::of(&before);
        if header.encoder != Encoder::of(&before, &views_before) {
            return Err(wrong("features become other slots in it than in this version"));
        }
        let learner = read_learner(&before, &views_before, parts, &tensors)?;
        let mut learner =
            learner.inherit(&spec, &views).map_err(|_| wrong("its statistics are degenerate"))?;
        learner.mark_good();
        Ok(Self { spec, learner, hash_key: None })
    }
}

fn read_learner(
    spec: &CheckedSpec,
    views: &Views,
    parts: Parts,
    tensors: &SafeTensors<'_>,
) -> Result<Learner, ArtifactError> {
    let mut learner = Learner::new(spec, views);
    let sizes =
        |learner: &Learner| -> Vec<_> { learner.metrics.iter().map(MetricState::sizes).collect() };
    let expected = sizes(&learner);
    learner.set_parts(parts).map_err(wrong)?;
    learner.arrays(&mut |name, _, array| {
        let tensor = tensors.tensor(&name).map_err(wrong)?;
        match (array, tensor.dtype()) {
            (Array::Numbers(v), Dtype::F64) => {
                *v = read_all(tensor.data(), f64::from_le_bytes);
                if v.iter().all(|v| v.is_finite()) {
                    Ok(())
                } else {
                    Err(wrong(format!("`{name}` is not finite")))
                }
            }
            (Array::Indices(v), Dtype::U32) => {
                *v = read_all(tensor.data(), u32::from_le_bytes);
                Ok(())
            }
            (_, other) => Err(wrong(format!("`{name}` has the type {other}"))),
        }
    })?;
    if sizes(&learner) != expected {
        return Err(wrong("an array has another length than its spec says"));
    }
    learner.mark_good();
    Ok(learner)
}

fn read_all<const N: usize, T>(bytes: &[u8], one: impl Fn([u8; N]) -> T) -> Vec<T> {
    bytes.as_chunks().0.iter().map(|chunk| one(*chunk)).collect()
}
