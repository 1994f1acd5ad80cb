//! Training images that differ from epoch to epoch, and the fixed distorted test set: shifts, sizes, rotations, shears, wavy
//! lines, thinner and thicker strokes. Every image is a function of its seed alone.

use anyhow::Result;
use rand_xoshiro::Xoshiro256PlusPlus;
use rand_xoshiro::rand_core::SeedableRng;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use sterna_core::image::{Ink, SIDE, centre};

use super::idx::Images;
use crate::train::ops::stream;
use crate::train::parameters::{normal, unit};
use crate::train::settings::Setting;

/// How much an image is changed. Each amount is the largest to either side, drawn evenly.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Augmentation {
    /// Share of images that stay as they are.
    pub untouched: f32,
    /// Rotation in degrees.
    pub rotation: f32,
    /// Relative change of size, on each axis on its own besides.
    pub scale: f32,
    /// Sideways shift of a row per row.
    pub shear: f32,
    /// Shift in pixels.
    pub shift: f32,
    /// Standard deviation of a smooth field of displacements, in pixels.
    pub elastic: f32,
    /// How far strokes go towards being one pixel thicker or thinner on all sides.
    pub stroke: f32,
    /// Share of changed images that are brought into place afterwards, as a page does with drawings.
    pub centred: f32,
    /// Share of images that are mirrored left to right.
    pub mirrored: f32,
}

impl Default for Augmentation {
    /// None.
    fn default() -> Self {
        Self {
            untouched: 0.0,
            rotation: 0.0,
            scale: 0.0,
            shear: 0.0,
            shift: 0.0,
            elastic: 0.0,
            stroke: 0.0,
            centred: 0.0,
            mirrored: 0.0,
        }
    }
}

impl Augmentation {
    /// For digits in training.
    pub const DIGITS: Self = Self {
        untouched: 0.1,
        rotation: 15.0,
        scale: 0.15,
        shear: 0.2,
        shift: 2.0,
        elastic: 1.0,
        stroke: 0.7,
        centred: 0.4,
        mirrored: 0.0,
    };

    /// For pictures of clothes in training.
    pub const CLOTHES: Self = Self {
        untouched: 0.1,
        rotation: 0.0,
        scale: 0.0,
        shear: 0.0,
        shift: 2.0,
        elastic: 0.0,
        stroke: 0.0,
        centred: 0.0,
        mirrored: 0.5,
    };

    /// What hands do to digits, and then the centring: the distorted test set.
    pub const DISTORTED: Self = Self {
        untouched: 0.0,
        rotation: 20.0,
        scale: 0.25,
        shear: 0.3,
        shift: 0.0,
        elastic: 1.2,
        stroke: 0.9,
        centred: 1.0,
        mirrored: 0.0,
    };

    /// Whether all amounts make sense.
    ///
    /// # Errors
    /// The first that does not, by its name, with the range.
    pub fn check(&self) -> Result<()> {
        for (name, share) in [
            ("augmentation.untouched", self.untouched),
            ("augmentation.stroke", self.stroke),
            ("augmentation.centred", self.centred),
            ("augmentation.mirrored", self.mirrored),
        ] {
            Setting(name).share(share)?;
        }
        for (name, amount) in [
            ("augmentation.rotation", self.rotation),
            ("augmentation.shear", self.shear),
            ("augmentation.shift", self.shift),
            ("augmentation.elastic", self.elastic),
        ] {
            Setting(name).not_negative(amount)?;
        }
        // A size of zero or less is none.
        Setting("augmentation.scale").share_below_one(self.scale)
    }

    /// `image`, `[height, width]`, changed, into `out`; what is changed follows from `seed`.
    ///
    /// # Panics
    /// If lengths do not fit together.
    pub fn apply(&self, image: &[u8], width: usize, seed: u64, out: &mut [u8]) {
        assert!(image.len() == out.len() && width > 0 && image.len().is_multiple_of(width));
        let height = image.len() / width;
        let mut generator = Xoshiro256PlusPlus::seed_from_u64(seed);
        let mut evenly = |amount: f32| (2.0 * unit(&mut generator) - 1.0) * amount;
        // All numbers are drawn always, so that one amount does not change what the others do.
        let mut chance = |share: f32| (evenly(1.0) + 1.0) / 2.0 < share;
        let (untouched, centred, mirrored) = (chance(self.untouched), chance(self.centred), chance(self.mirrored));
        let angle = evenly(self.rotation).to_radians();
        let size = 1.0 + evenly(self.scale);
        let (wide, tall) = (size * (1.0 + evenly(self.scale / 2.0)), size * (1.0 + evenly(self.scale / 2.0)));
        let (shear, stroke) = (evenly(self.shear), evenly(self.stroke));
        let (right, down) = (evenly(self.shift), evenly(self.shift));
        let mut waves = [[0.0f32; 2]; GRID * GRID];
        for wave in waves.iter_mut().flatten() {
            *wave = normal(&mut generator) * self.elastic;
        }
        if untouched {
            out.copy_from_slice(image);
            return;
        }
        let mut strokes = vec![0.0f32; image.len()];
        thicken(image, width, stroke, &mut strokes);

        // Each pixel of the result looks up where it comes from: rotated, sheared and scaled around the middle.
        let (sin, cos) = angle.sin_cos();
        let (cx, cy) = ((width - 1) as f32 / 2.0, (height - 1) as f32 / 2.0);
        for y in 0..height {
            for x in 0..width {
                let (dx, dy) = displaced(&waves, x as f32 / width as f32, y as f32 / height as f32);
                let (px, py) = (x as f32 - cx - right + dx, y as f32 - cy - down + dy);
                let (rx, ry) = (cos * px + sin * py, cos * py - sin * px);
                let (sx, sy) = ((rx + shear * ry) / wide, ry / tall);
                let sx = if mirrored { -sx } else { sx };
                out[y * width + x] = (sample(&strokes, width, height, sx + cx, sy + cy) + 0.5) as u8;
            }
        }
        if centred && (width, height) == (SIDE, SIDE) {
            // What was moved out of the picture altogether stays as it is.
            if let Ok(centred) = centre(out, width, height, Ink::Light) {
                out.copy_from_slice(&centred);
            }
        }
    }

    /// All images of a set, changed: the same for the same seed.
    pub fn apply_all(&self, images: &Images, seed: u64) -> Images {
        let size = images.height * images.width;
        let mut changed = images.clone();
        changed.pixels.par_chunks_mut(size.max(1)).enumerate().for_each(|(i, out)| {
            self.apply(images.image(i), images.width, stream(seed, i as u64, 0), out);
        });
        changed
    }
}

/// Corners of the field of displacements on each axis.
const GRID: usize = 5;

/// The displacement at a place from 0 to 1, between the corners around it.
fn displaced(waves: &[[f32; 2]; GRID * GRID], x: f32, y: f32) -> (f32, f32) {
    let (x, y) = (x * (GRID - 1) as f32, y * (GRID - 1) as f32);
    let (left, top) = ((x as usize).min(GRID - 2), (y as usize).min(GRID - 2));
    // Smoothed, so that lines bend rather than break at the corners.
    let smooth = |t: f32| t * t * (3.0 - 2.0 * t);
    let (u, v) = (smooth(x - left as f32), smooth(y - top as f32));
    let at = |row: usize, column: usize| waves[(top + row) * GRID + left + column];
    let mix = |i: usize| {
        let (above, below) = (at(0, 0)[i] * (1.0 - u) + at(0, 1)[i] * u, at(1, 0)[i] * (1.0 - u) + at(1, 1)[i] * u);
        above * (1.0 - v) + below * v
    };
    (mix(0), mix(1))
}

/// Strokes `amount` of the way to a pixel thicker (the largest of a place and its four neighbours), or thinner below zero.
fn thicken(image: &[u8], width: usize, amount: f32, out: &mut [f32]) {
    for (i, out) in out.iter_mut().enumerate() {
        let here = image[i];
        let x = i % width;
        let neighbours = [
            i.checked_sub(width).map(|j| image[j]),
            image.get(i + width).copied(),
            (x > 0).then(|| image[i - 1]),
            (x + 1 < width).then(|| image[i + 1]),
        ];
        let neighbours = neighbours.into_iter().flatten();
        let other = if amount > 0.0 { neighbours.fold(here, u8::max) } else { neighbours.fold(here, u8::min) };
        *out = f32::from(here) + amount.abs() * (f32::from(other) - f32::from(here));
    }
}

/// The value between pixels, zero outside.
fn sample(image: &[f32], width: usize, height: usize, x: f32, y: f32) -> f32 {
    let (left, top) = (x.floor(), y.floor());
    let (u, v) = (x - left, y - top);
    let at = |dx: i32, dy: i32| {
        let (x, y) = (left as i32 + dx, top as i32 + dy);
        let inside = x >= 0 && y >= 0 && (x as usize) < width && (y as usize) < height;
        if inside { image[y as usize * width + x as usize] } else { 0.0 }
    };
    (at(0, 0) * (1.0 - u) + at(1, 0) * u) * (1.0 - v) + (at(0, 1) * (1.0 - u) + at(1, 1) * u) * v
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A bar of ink.
    fn bar() -> Vec<u8> {
        (0..784).map(|i| if (10..18).contains(&(i % 28)) && (4..24).contains(&(i / 28)) { 255 } else { 0 }).collect()
    }

    fn applied(augmentation: Augmentation, seed: u64) -> Vec<u8> {
        let mut out = vec![1; 784];
        augmentation.apply(&bar(), 28, seed, &mut out);
        out
    }

    fn ink(image: &[u8]) -> f32 {
        image.iter().map(|&pixel| f32::from(pixel)).sum()
    }

    #[test]
    fn nothing_asked_for_changes_nothing() {
        assert_eq!(applied(Augmentation::default(), 3), bar());
        assert_eq!(applied(Augmentation { untouched: 1.0, ..Augmentation::DISTORTED }, 3), bar());
    }

    #[test]
    fn the_seed_decides() {
        assert_eq!(applied(Augmentation::DIGITS, 3), applied(Augmentation::DIGITS, 3));
        assert_ne!(applied(Augmentation::DISTORTED, 3), applied(Augmentation::DISTORTED, 4));
        let set = Images { height: 28, width: 28, pixels: bar().repeat(5), labels: vec![0; 5] };
        let one = Augmentation::DISTORTED.apply_all(&set, 1);
        let pool = rayon::ThreadPoolBuilder::new().num_threads(3).build().unwrap();
        assert_eq!(one, pool.install(|| Augmentation::DISTORTED.apply_all(&set, 1)));
        assert_ne!(one.image(0), one.image(1));
        assert_eq!(one.labels, set.labels);
    }

    #[test]
    fn each_change_does_what_it_says() {
        let only = |change: fn(&mut Augmentation)| {
            let mut augmentation = Augmentation::default();
            change(&mut augmentation);
            (0..20).map(|seed| applied(augmentation, seed)).collect::<Vec<_>>()
        };
        // Strokes get thicker and thinner, all else keeps the ink.
        let strokes: Vec<f32> = only(|a| a.stroke = 1.0).iter().map(|image| ink(image) / ink(&bar())).collect();
        assert!(strokes.iter().any(|&ink| ink > 1.15) && strokes.iter().any(|&ink| ink < 0.85), "{strokes:?}");
        for images in [only(|a| a.rotation = 30.0), only(|a| a.shear = 0.3), only(|a| a.shift = 2.0)] {
            for image in images {
                assert!((ink(&image) / ink(&bar()) - 1.0).abs() < 0.03 && image != bar());
            }
        }
        let sizes: Vec<f32> = only(|a| a.scale = 0.2).iter().map(|image| ink(image) / ink(&bar())).collect();
        assert!(sizes.iter().any(|&ink| ink > 1.1) && sizes.iter().any(|&ink| ink < 0.9), "{sizes:?}");
        // A bar in the middle is its own mirror image; half of it is not.
        let mut half = bar();
        half.iter_mut().enumerate().filter(|(i, _)| i % 28 < 14).for_each(|(_, pixel)| *pixel = 0);
        let mut mirrored = vec![0; 784];
        Augmentation { mirrored: 1.0, ..Augmentation::default() }.apply(&half, 28, 1, &mut mirrored);
        assert!((0..784).all(|i| mirrored[i] == half[i / 28 * 28 + 27 - i % 28]));
        // Centring undoes shifts.
        let images = only(|a| (a.shift, a.centred) = (3.0, 1.0));
        let row = |image: &[u8]| image.iter().position(|&pixel| pixel > 128).unwrap() / 28;
        assert!(images.iter().all(|image| row(image).abs_diff(4) <= 1));
    }
}
