//! The decoder's weights and its forward pass, the same for every family and every device.

use super::checkpoint::Checkpoint;
use super::names::{Name, Names, Part};
use super::ops::{Slot, Step, Weights};
use super::{Config, DeviceError};
use crate::models::LoadError;
use crate::models::source::Tensors;
use bulkhead_worker_core::GoOn;

struct Layer<W: Weights> {
    attention_norm: W::Vector,
    qkv: W::Matrix,
    /// Of queries and of keys, where heads have norms.
    head_norms: Option<[W::Vector; 2]>,
    attended: W::Matrix,
    feed_norm: W::Vector,
    gate_up: W::Matrix,
    down: W::Matrix,
}

/// A loaded decoder.
pub(super) struct Model<W: Weights> {
    pub(super) config: Config,
    /// The embedding table, where it is not the output matrix too.
    embedding: Option<W::Matrix>,
    layers: Vec<Layer<W>>,
    norm: W::Vector,
    output: W::Matrix,
}

impl<W: Weights> Model<W> {
    /// Reads the weights, in the order in which files have them; the files are not needed afterwards.
    pub(super) fn load(checkpoint: Checkpoint<'_>, weights: &W) -> Result<Self, LoadError> {
        let Checkpoint {
            config,
            names,
            tensors,
        } = checkpoint;
        Self::of(config, names, &mut Reader { weights, tensors })
    }

    /// Takes the weights from wherever they are, in the order in which files have them.
    pub(super) fn of(
        config: Config,
        names: Names,
        source: &mut impl Source<W>,
    ) -> Result<Self, LoadError> {
        let (hidden, vocabulary) = (config.hidden, config.vocabulary);
        let table = source.matrix(&[(Name::Embedding(names), vocabulary)], hidden, false)?;
        let layers = (0..config.layers)
            .map(|nth| Layer::of(source, names, nth, &config))
            .collect::<Result<_, _>>()?;
        let norm = source.vector(Name::Norm(names), hidden)?;
        let (embedding, output) = match config.tied {
            true => (None, table),
            false => {
                let output = [(Name::Output(names), vocabulary)];
                (Some(table), source.matrix(&output, hidden, false)?)
            }
        };
        Ok(Model {
            config,
            embedding,
            layers,
            norm,
            output,
        })
    }

    /// Bytes that the weights take.
    pub(super) fn bytes(&self) -> u64 {
        let of_layer = |layer: &Layer<W>| -> u64 {
            let matrices = [&layer.qkv, &layer.attended, &layer.gate_up, &layer.down];
            matrices.into_iter().map(W::bytes).sum()
        };
        self.layers.iter().map(of_layer).sum::<u64>()
            + self.embedding.as_ref().map_or(0, W::bytes)
            + W::bytes(&self.output)
    }

    /// Computes a pass on from the stage `from`: the layers, then the logits. Returns the stage before which
    /// `go_on` said no; what has to be kept for that one is in [`Slot::Rows`] alone.
    pub(super) fn advance(
        &self,
        step: &mut impl Step<W>,
        any_wanted: bool,
        from: usize,
        go_on: &mut GoOn<'_>,
    ) -> Result<Option<usize>, DeviceError> {
        if from == 0 {
            step.embed(self.embedding.as_ref().unwrap_or(&self.output))?;
        }
        let logits = usize::from(any_wanted);
        for stage in from..self.layers.len() + logits {
            if stage > from && !go_on(stage) {
                return Ok(Some(stage));
            }
            match self.layers.get(stage) {
                Some(layer) => self.layer(step, stage, layer, any_wanted)?,
                None => {
                    step.norm(&self.norm)?;
                    step.logits(&self.output)?;
                }
            }
        }
        Ok(None)
    }

    /// Of rows whose logits nobody wants, the last layer computes keys and values alone.
    fn layer(
        &self,
        step: &mut impl Step<W>,
        nth: usize,
        layer: &Layer<W>,
        any_wanted: bool,
    ) -> Result<(), DeviceError> {
        let last = nth + 1 == self.layers.len();
        step.norm(&layer.attention_norm)?;
        step.linear(&layer.qkv, Slot::Normed, Slot::Qkv)?;
        if let Some([queries, keys]) = &layer.head_norms {
            step.head_norms(queries, keys)?;
        }
        step.rotate()?;
        step.store(nth)?;
        if last && !any_wanted {
            return Ok(());
        }
        step.attend(nth, self.config.windows[nth])?;
        if last {
            step.keep_wanted()?;
        }
        step.linear(&layer.attended, Slot::Mixed, Slot::Change)?;
        step.add()?;
        step.norm(&layer.feed_norm)?;
        step.linear(&layer.gate_up, Slot::Normed, Slot::GateUp)?;
        step.swiglu()?;
        step.linear(&layer.down, Slot::Inner, Slot::Change)?;
        step.add()
    }
}

/// Where weights come from, by their names.
pub(super) trait Source<W: Weights> {
    /// A norm's weights.
    fn vector(&mut self, name: Name, length: usize) -> Result<W::Vector, LoadError>;

    /// Matrices over the same input as one: of each its name, and how many outputs it has.
    fn matrix(
        &mut self,
        parts: &[(Name, usize)],
        inputs: usize,
        has_bias: bool,
    ) -> Result<W::Matrix, LoadError>;
}

/// Weights on their way from a file to a device.
struct Reader<'a, W> {
    weights: &'a W,
    tensors: Box<dyn Tensors + 'a>,
}

impl<W: Weights> Source<W> for Reader<'_, W> {
    fn vector(&mut self, name: Name, length: usize) -> Result<W::Vector, LoadError> {
        let values = self.tensors.vector(&format!("{name}.weight"), length)?;
        self.weights.vector(values)
    }

    fn matrix(
        &mut self,
        parts: &[(Name, usize)],
        inputs: usize,
        has_bias: bool,
    ) -> Result<W::Matrix, LoadError> {
        let (mut read, mut bias) = (Vec::with_capacity(parts.len()), Vec::new());
        for (name, outputs) in parts {
            let weight = format!("{name}.weight");
            let raw = self.tensors.raw(&weight, &[*outputs, inputs])?;
            read.push(self.weights.part(&raw, *outputs, inputs)?);
            if has_bias {
                bias.extend(self.tensors.vector(&format!("{name}.bias"), *outputs)?);
            }
        }
        self.weights.matrix(read, inputs, bias)
    }
}

impl<W: Weights> Layer<W> {
    fn of(
        source: &mut impl Source<W>,
        names: Names,
        nth: usize,
        config: &Config,
    ) -> Result<Self, LoadError> {
        let (hidden, inner) = (config.hidden, config.inner);
        let (queries, keys) = (config.queries(), config.keys());
        let name = |part| Name::Layer(names, nth, part);
        let qkv = [
            (name(Part::Query), queries),
            (name(Part::Key), keys),
            (name(Part::Value), keys),
        ];
        let attended = [(name(Part::Attended), hidden)];
        let gate_up = [(name(Part::Gate), inner), (name(Part::Up), inner)];
        let head_norms = match config.head_norms {
            true => Some([
                source.vector(name(Part::QueryNorm), config.width)?,
                source.vector(name(Part::KeyNorm), config.width)?,
            ]),
            false => None,
        };
        Ok(Layer {
            attention_norm: source.vector(name(Part::AttentionNorm), hidden)?,
            qkv: source.matrix(&qkv, hidden, config.qkv_bias)?,
            head_norms,
            attended: source.matrix(&attended, queries, config.attended_bias)?,
            feed_norm: source.vector(name(Part::FeedNorm), hidden)?,
            gate_up: source.matrix(&gate_up, hidden, false)?,
            down: source.matrix(&[(name(Part::Down), hidden)], inner, false)?,
        })
    }
}
