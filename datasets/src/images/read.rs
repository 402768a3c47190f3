//! Photographs as people have them.

use std::io::Cursor;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, ImageFormat, Limits};

use super::jpeg;
use super::photo::Photo;
use crate::error::{DataError, Result};

/// What may be read, and what lies behind transparent pixels.
///
/// | Setting | Default | Meaning |
/// |---|---|---|
/// | `max_pixels` | 64 · 2²⁰ | larger images are refused from their header, before anything is decoded |
/// | `max_file_bytes` | 512 · 2²⁰ | larger files are refused unread |
/// | `background` | white | colour behind transparent pixels |
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadOptions {
    /// Most pixels of an image.
    pub max_pixels: u64,
    /// Most bytes of a file.
    pub max_file_bytes: u64,
    /// Colour behind transparent pixels.
    pub background: [u8; 3],
}

impl Default for ReadOptions {
    fn default() -> Self {
        Self {
            max_pixels: 64 << 20,
            max_file_bytes: 512 << 20,
            background: [255; 3],
        }
    }
}

impl ReadOptions {
    /// The same for masks and maps: what is transparent in them is nothing, which is black.
    pub(super) fn of_maps(&self) -> Self {
        Self {
            background: [0; 3],
            ..self.clone()
        }
    }
}

/// Reads a mask or a map (edges, labels) as [`read`] does, but over black: what is transparent in it shows nothing.
///
/// # Errors
/// As [`read`].
pub fn read_map(path: impl AsRef<Path>) -> Result<Photo> {
    read_with(path, &ReadOptions::default().of_maps())
}

/// Reads a photograph with the default [`ReadOptions`].
///
/// JPEG (baseline and progressive; grey, colour, CMYK), PNG (1 to 16 bits, palette, grey, transparent), WebP,
/// BMP and GIF (first frame). The format is found from the content, not from the file's name. EXIF orientation
/// is applied. Samples of 16 bits are rounded to 8. Colour profiles are not applied: values are taken as sRGB,
/// which is what diffusion models were trained on. Transparent pixels are composed with white, and the
/// opacity is returned beside.
///
/// # Errors
/// If the file cannot be read, is no image, is cut off or damaged (it is never filled up), or has more pixels
/// than allowed. Each error names the file.
///
/// ```
/// let photo = temper_datasets::images::read("../assets/dreambooth/dog6/00.jpg")?;
/// assert_eq!(photo.rgb.len(), photo.width * photo.height * 3);
/// # Ok::<(), temper_datasets::DataError>(())
/// ```
pub fn read(path: impl AsRef<Path>) -> Result<Photo> {
    read_with(path, &ReadOptions::default())
}

/// Reads a photograph; see [`read`].
///
/// # Errors
/// As [`read`].
pub fn read_with(path: impl AsRef<Path>, options: &ReadOptions) -> Result<Photo> {
    let path = path.as_ref();
    decode(&load(path, options)?, path, options)
}

/// The bytes of an image file, unless there are too many.
pub(super) fn load(path: &Path, options: &ReadOptions) -> Result<Vec<u8>> {
    let bad = |reason| DataError::image(path, reason);
    regular_file(path, options.max_file_bytes, bad)
}

/// The bytes of a regular file of at most `limit` bytes. What else is there is refused before it is opened: a pipe or a device
/// may never end.
pub(super) fn regular_file(
    path: &Path,
    limit: u64,
    bad: impl Fn(String) -> DataError,
) -> Result<Vec<u8>> {
    let metadata = std::fs::metadata(path).map_err(DataError::io("read", path))?;
    if metadata.is_dir() {
        return Err(bad("it is a directory".into()));
    }
    if !metadata.is_file() {
        let reason = "it is no regular file but a pipe, a socket or a device; put a file there";
        return Err(bad(reason.into()));
    }
    if metadata.len() > limit {
        let bytes = metadata.len();
        return Err(bad(format!(
            "it has {bytes} bytes and the limit is {limit}"
        )));
    }
    std::fs::read(path).map_err(DataError::io("read", path))
}

/// Decodes a photograph that is in memory; `path` is for messages alone. See [`read`].
///
/// # Errors
/// As [`read`].
pub fn decode(bytes: &[u8], path: &Path, options: &ReadOptions) -> Result<Photo> {
    guarded(path, || {
        let format = sniff(bytes).map_err(|reason| DataError::image(path, reason))?;
        if format == ImageFormat::Jpeg {
            return decode_jpeg(bytes, path, options);
        }
        let mut decoder = open(bytes, format, path, options)?;
        let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
        let mut image = DynamicImage::from_decoder(decoder)
            .map_err(|error| DataError::image(path, undecodable(format, &error)))?;
        image.apply_orientation(orientation);
        Ok(compose(image, options.background))
    })
}

/// Width and height as seen (orientation applied), from the header alone.
///
/// # Errors
/// If the bytes are no image or the image is too large; damaged pixels are not noticed.
pub fn dimensions(bytes: &[u8], path: &Path, options: &ReadOptions) -> Result<(usize, usize)> {
    guarded(path, || {
        let format = sniff(bytes).map_err(|reason| DataError::image(path, reason))?;
        let (width, height, orientation) = if format == ImageFormat::Jpeg {
            let header = jpeg::header(bytes).map_err(|reason| DataError::image(path, reason))?;
            check_size(header.width, header.height, path, options)?;
            (header.width, header.height, exif_orientation(header.exif))
        } else {
            let mut decoder = open(bytes, format, path, options)?;
            let (width, height) = decoder.dimensions();
            let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
            (width as usize, height as usize, orientation)
        };
        Ok(match orientation.to_exif() {
            5.. => (height, width),
            _ => (width, height),
        })
    })
}

/// Runs a decoder. A broken file that makes one panic is still an error with the file's name.
fn guarded<T>(path: &Path, work: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(work))
        .unwrap_or_else(|_| Err(DataError::image(path, "the decoder gave up on it")))
}

fn decode_jpeg(bytes: &[u8], path: &Path, options: &ReadOptions) -> Result<Photo> {
    let bad = |reason| DataError::image(path, reason);
    let header = jpeg::header(bytes).map_err(bad)?;
    check_size(header.width, header.height, path, options)?;
    let jpeg = jpeg::decode(bytes).map_err(bad)?;
    let buffer = image::RgbImage::from_raw(jpeg.width as u32, jpeg.height as u32, jpeg.rgb)
        .ok_or_else(|| bad("its size and its pixels disagree".into()))?;
    let mut image = DynamicImage::from(buffer);
    image.apply_orientation(exif_orientation(header.exif));
    Ok(compose(image, options.background))
}

fn exif_orientation(exif: Option<Vec<u8>>) -> Orientation {
    exif.and_then(|chunk| Orientation::from_exif_chunk(&chunk))
        .unwrap_or(Orientation::NoTransforms)
}

/// A decoder whose header is read and whose size is allowed.
pub(super) fn open<'a>(
    bytes: &'a [u8],
    format: ImageFormat,
    path: &Path,
    options: &ReadOptions,
) -> Result<Box<dyn ImageDecoder + 'a>> {
    let bad = |error: image::ImageError| DataError::image(path, undecodable(format, &error));
    let mut reader = image::ImageReader::with_format(Cursor::new(bytes), format);
    let mut limits = Limits::no_limits();
    // Eight bytes are a pixel of 16-bit RGBA; twice that and a little for what decoders hold beside it.
    limits.max_alloc = Some(
        options
            .max_pixels
            .saturating_mul(16)
            .saturating_add(1 << 24),
    );
    // Sizes are judged here, with both numbers in the message.
    reader.no_limits();
    if format == ImageFormat::Png
        && let Some([width, height]) = png_size(bytes)
    {
        check_size(width, height, path, options)?;
        // Texts and profiles may stand before the pixels and be bombs themselves. Beside them the decoder holds a row.
        let mut beside = Limits::no_limits();
        beside.max_alloc = Some(BESIDE_PIXELS + 16 * width as u64);
        reader.limits(beside);
    }
    let mut decoder = reader.into_decoder().map_err(bad)?;
    let (width, height) = decoder.dimensions();
    check_size(width as usize, height as usize, path, options)?;
    decoder.set_limits(limits).map_err(bad)?;
    Ok(Box::new(decoder))
}

/// Most bytes of texts and profiles in a PNG.
const BESIDE_PIXELS: u64 = 1 << 24;

/// Width and height, which stand first in every PNG.
fn png_size(bytes: &[u8]) -> Option<[usize; 2]> {
    let side = |at: usize| {
        let number = bytes.get(at..at + 4)?.try_into().ok()?;
        Some(u32::from_be_bytes(number) as usize)
    };
    Some([side(16)?, side(20)?])
}

fn check_size(width: usize, height: usize, path: &Path, options: &ReadOptions) -> Result<()> {
    if width == 0 || height == 0 {
        return Err(DataError::image(path, "it has no pixels"));
    }
    if (width as u64).saturating_mul(height as u64) > options.max_pixels {
        return Err(DataError::ImageTooLarge {
            path: path.into(),
            width,
            height,
            limit: options.max_pixels,
        });
    }
    Ok(())
}

fn undecodable(format: ImageFormat, error: &image::ImageError) -> String {
    let name = format!("{format:?}").to_uppercase();
    format!("it is a damaged, cut off or unusual {name} ({error}); copy or download the file again")
}

/// Finds the format from the first bytes; says what else a file is.
fn sniff(bytes: &[u8]) -> Result<ImageFormat, String> {
    const READABLE: &str = "convert it to JPEG or PNG";
    if bytes.is_empty() {
        return Err("it is empty".into());
    }
    let brand = bytes.get(4..12).filter(|brand| brand.starts_with(b"ftyp"));
    if let Some(brand) = brand {
        let name = String::from_utf8_lossy(&brand[4..]).trim().to_owned();
        return Err(format!(
            "it is in a format of the family HEIF (`{name}`); {READABLE}"
        ));
    }
    match image::guess_format(bytes) {
        Ok(
            format @ (ImageFormat::Jpeg
            | ImageFormat::Png
            | ImageFormat::WebP
            | ImageFormat::Bmp
            | ImageFormat::Gif),
        ) => Ok(format),
        Ok(format) => Err(format!("it is in the format {format:?}; {READABLE}")),
        Err(_) if bytes.starts_with(b"version https://git-lfs") => {
            Err("it is a pointer of Git LFS, not the image; run `git lfs pull`".into())
        }
        Err(_) => {
            let start = &bytes[..bytes.len().min(64)];
            let text = start
                .iter()
                .all(|byte| matches!(byte, 9..=13 | 32..=126 | 128..));
            let kind = if text { "text" } else { "of no known format" };
            Err(format!("its content is {kind}, not an image"))
        }
    }
}

/// Lays a picture over a background.
fn compose(image: DynamicImage, background: [u8; 3]) -> Photo {
    let (width, height) = (image.width() as usize, image.height() as usize);
    if !image.color().has_alpha() {
        return Photo {
            width,
            height,
            rgb: image.into_rgb8().into_raw(),
            alpha: None,
        };
    }
    let rgba = image.into_rgba8().into_raw();
    let over = |pixel: &[u8], c: usize| {
        let opacity = u32::from(pixel[3]);
        let mixed = u32::from(pixel[c]) * opacity + u32::from(background[c]) * (255 - opacity);
        ((mixed + 127) / 255) as u8
    };
    let rgb = rgba
        .chunks_exact(4)
        .flat_map(|pixel| [0, 1, 2].map(|c| over(pixel, c)));
    let rgb = rgb.collect();
    let alpha: Vec<u8> = rgba.iter().skip(3).step_by(4).copied().collect();
    Photo {
        width,
        height,
        rgb,
        alpha: alpha.iter().any(|opacity| *opacity < 255).then_some(alpha),
    }
}
