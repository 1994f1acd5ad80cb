//! What is trained: named variables, each with how the optimizer treats it.

use std::collections::BTreeMap;

use candle_core::{Device, Result, Shape, Tensor, Var};
use rand_xoshiro::Xoshiro256PlusPlus;
use rand_xoshiro::rand_core::{Rng, SeedableRng};

/// How the optimizer treats a parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The weights of a product, `[out, in]`: decayed.
    Matrix,
    /// Looked up by row: not decayed.
    Embedding,
    /// Norms, biases, gains: not decayed.
    Vector,
}

/// One variable.
#[derive(Clone, Debug)]
pub struct Parameter {
    /// Name in checkpoints.
    pub name: String,
    /// How the optimizer treats it.
    pub kind: Kind,
    /// Its value.
    pub var: Var,
}

/// All variables of a model, in the order of their making, and where their first values come from.
#[derive(Clone, Debug)]
pub struct Parameters {
    list: Vec<Parameter>,
    first: First,
}

/// Where first values come from.
#[derive(Clone, Debug)]
enum First {
    /// Drawn, or what the model's maker says.
    Drawn(Xoshiro256PlusPlus),
    /// Those of a model that is there already, by name.
    Given(BTreeMap<String, Tensor>),
}

impl Parameters {
    /// None yet; first values follow from `seed`.
    pub fn new(seed: u64) -> Self {
        Self { list: Vec::new(), first: First::Drawn(Xoshiro256PlusPlus::seed_from_u64(seed)) }
    }

    /// None yet; first values are taken from these, by name. A parameter whose name is several joined by `+` takes them one under
    /// the other.
    pub fn given(values: BTreeMap<String, Tensor>) -> Self {
        Self { list: Vec::new(), first: First::Given(values) }
    }

    /// Names of values that were given and that no parameter has taken.
    pub fn left(&self) -> impl Iterator<Item = &str> {
        let given = match &self.first {
            First::Given(values) => Some(values.keys().map(String::as_str)),
            First::Drawn(_) => None,
        };
        given.into_iter().flatten()
    }

    /// A variable with values from a normal distribution around 0, where none are given.
    ///
    /// # Errors
    /// As [`add`](Self::add).
    pub fn normal(&mut self, name: &str, kind: Kind, shape: impl Into<Shape>, deviation: f32) -> Result<Var> {
        let shape = shape.into();
        let values = match &mut self.first {
            First::Drawn(generator) => {
                let values = (0..shape.elem_count()).map(|_| normal(generator) * deviation).collect::<Vec<_>>();
                Tensor::from_vec(values, shape, &Device::Cpu)?
            }
            First::Given(given) => take(given, name, &shape)?,
        };
        self.push(name, kind, &values)
    }

    /// A variable with the same value everywhere, where none are given.
    ///
    /// # Errors
    /// As [`add`](Self::add).
    pub fn constant(&mut self, name: &str, kind: Kind, shape: impl Into<Shape>, value: f32) -> Result<Var> {
        self.add(name, kind, Tensor::full(value, shape, &Device::Cpu)?)
    }

    /// A variable with these values, where none are given.
    ///
    /// # Errors
    /// If the name is taken, or what is given for it is missing or has another shape.
    pub fn add(&mut self, name: &str, kind: Kind, values: Tensor) -> Result<Var> {
        let values = match &mut self.first {
            First::Drawn(_) => values,
            First::Given(given) => take(given, name, values.shape())?,
        };
        self.push(name, kind, &values)
    }

    fn push(&mut self, name: &str, kind: Kind, values: &Tensor) -> Result<Var> {
        if self.list.iter().any(|parameter| parameter.name == name) {
            candle_core::bail!("two parameters are named {name}");
        }
        let var = Var::from_tensor(values)?;
        self.list.push(Parameter { name: name.into(), kind, var: var.clone() });
        Ok(var)
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Parameter> {
        self.list.iter()
    }

    /// Number of weights.
    pub fn count(&self) -> usize {
        self.list.iter().map(|parameter| parameter.var.elem_count()).sum()
    }
}

/// Takes what is given for a parameter.
fn take(given: &mut BTreeMap<String, Tensor>, name: &str, shape: &Shape) -> Result<Tensor> {
    let mut parts = Vec::new();
    for part in name.split('+') {
        let Some(values) = given.remove(part) else { candle_core::bail!("the model has no {part}") };
        parts.push(values);
    }
    let values = if parts.len() == 1 { parts.remove(0) } else { Tensor::cat(&parts, 0)? };
    if values.shape() != shape {
        candle_core::bail!("{name} has the shape {:?}, not {:?}", values.dims(), shape.dims());
    }
    Ok(values)
}

/// A generator for one use at one step: nothing of it needs to be kept in a checkpoint.
pub fn generator(seed: u64, step: u64, place: u64) -> Xoshiro256PlusPlus {
    Xoshiro256PlusPlus::seed_from_u64(super::ops::stream(seed, step, place))
}

/// A number evenly from [0, 1).
pub fn unit(generator: &mut impl Rng) -> f32 {
    (generator.next_u64() >> 40) as f32 / 16_777_216.0
}

/// A number evenly from 0 up to `end`, by Lemire's multiplication (arXiv:1805.10941); its bias is below `end / 2^64`.
pub fn below(generator: &mut impl Rng, end: usize) -> usize {
    ((u128::from(generator.next_u64()) * end as u128) >> 64) as usize
}

/// A standard normal number, by Box and Muller's transform.
pub fn normal(generator: &mut impl Rng) -> f32 {
    let radius = (-2.0 * f64::from(1.0 - unit(generator)).ln()).sqrt();
    (radius * (core::f64::consts::TAU * f64::from(unit(generator))).cos()) as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_values_follow_from_the_seed() -> Result<()> {
        let of = |seed| -> Result<Vec<f32>> {
            Parameters::new(seed).normal("w", Kind::Matrix, (100, 100), 0.5)?.flatten_all()?.to_vec1()
        };
        let values = of(3)?;
        assert_eq!(values, of(3)?);
        assert_ne!(values, of(4)?);
        let mean = values.iter().sum::<f32>() / 1e4;
        let deviation = (values.iter().map(|v| v * v).sum::<f32>() / 1e4).sqrt();
        assert!(mean.abs() < 0.02 && (deviation - 0.5).abs() < 0.02, "{mean} {deviation}");
        Ok(())
    }

    #[test]
    fn names_are_unique() -> Result<()> {
        let mut parameters = Parameters::new(0);
        parameters.constant("w", Kind::Vector, 2, 1.0)?;
        assert!(parameters.constant("w", Kind::Vector, 2, 1.0).is_err());
        Ok(())
    }

    #[test]
    fn given_values_are_taken_by_name_and_stacked() -> Result<()> {
        let tensor = |values: &[f32]| Tensor::from_slice(values, (1, values.len()), &Device::Cpu);
        let given = [("a", tensor(&[1.0, 2.0])?), ("b", tensor(&[3.0, 4.0])?), ("c", tensor(&[5.0])?)];
        let given = given.map(|(name, values)| (name.to_owned(), values));
        let mut parameters = Parameters::given(BTreeMap::from(given));
        let stacked = parameters.normal("b+a", Kind::Matrix, (2, 2), 1.0)?;
        assert_eq!(stacked.to_vec2::<f32>()?, [[3.0, 4.0], [1.0, 2.0]]);
        assert_eq!(parameters.left().collect::<Vec<_>>(), ["c"]);
        assert!(parameters.constant("a", Kind::Matrix, (1, 2), 1.0).unwrap_err().to_string().contains("has no a"));
        let error = parameters.constant("c", Kind::Matrix, (1, 2), 1.0).unwrap_err().to_string();
        assert!(error.contains("c has the shape [1, 1], not [1, 2]"), "{error}");
        Ok(())
    }

    #[test]
    fn draws_stay_in_range() {
        let mut generator = generator(1, 2, 3);
        let drawn: Vec<_> = (0..1000).map(|_| below(&mut generator, 7)).collect();
        assert!((0..7).all(|value| drawn.contains(&value)) && drawn.iter().all(|&value| value < 7));
    }
}
