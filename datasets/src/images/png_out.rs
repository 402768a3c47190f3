//! Pictures out: PNG files that say how they were made.

use std::io::{BufWriter, Cursor, Write};
use std::path::Path;

use super::photo::{Photo, check_length};
use super::read::{ReadOptions, load};
use crate::error::{DataError, Result};

/// Writes a picture as PNG with texts in its metadata: pairs of keyword and text, such as
/// `("parameters", "a photo of …")`.
///
/// Text of any script is allowed (it becomes an `iTXt` chunk, plain Latin a `tEXt` chunk); a keyword has 1 to
/// 79 bytes of printable ASCII. The opacity of `photo` is written too, if it has one. The file appears whole
/// or not at all: it is written beside its place and moved there.
///
/// # Errors
/// If a keyword is not allowed, the pixels do not fit the size, or the file cannot be written.
///
/// ```
/// use temper_datasets::images::{Photo, read, read_png_text, write_png};
///
/// # let directory = tempfile::tempdir()?;
/// let path = directory.path().join("dog.png");
/// let photo = Photo::filled(8, 8, [10, 20, 30]);
/// write_png(&path, &photo, &[("prompt".into(), "a photo of sks dog".into())])?;
/// assert_eq!(read(&path)?, photo);
/// assert_eq!(read_png_text(&path)?[0].1, "a photo of sks dog");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn write_png(
    path: impl AsRef<Path>,
    photo: &Photo,
    metadata: &[(String, String)],
) -> Result<()> {
    let path = path.as_ref();
    let (width, height) = (photo.width, photo.height);
    check_length("rgb", photo.rgb.len(), width, height, 3)?;
    let Some(alpha) = &photo.alpha else {
        return write(path, png::ColorType::Rgb, photo, &photo.rgb, metadata);
    };
    check_length("alpha", alpha.len(), width, height, 1)?;
    let pixels = photo.rgb.chunks_exact(3).zip(alpha);
    let rgba: Vec<u8> = pixels
        .flat_map(|(rgb, alpha)| [rgb[0], rgb[1], rgb[2], *alpha])
        .collect();
    write(path, png::ColorType::Rgba, photo, &rgba, metadata)
}

fn write(
    path: &Path,
    colour: png::ColorType,
    size: &Photo,
    samples: &[u8],
    metadata: &[(String, String)],
) -> Result<()> {
    for (keyword, _) in metadata {
        let printable = keyword.bytes().all(|byte| (32..127).contains(&byte));
        if !(1..=79).contains(&keyword.len()) || !printable || keyword.trim() != keyword {
            let reason = format!("has the keyword `{keyword}`; PNG allows 1 to 79 printable ASCII");
            return Err(DataError::setting("metadata", reason));
        }
    }
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let failed = |error: png::EncodingError| {
        let source = match error {
            png::EncodingError::IoError(source) => source,
            other => std::io::Error::other(other),
        };
        DataError::io("write", path)(source)
    };
    let mut temporary = tempfile::Builder::new()
        .prefix(".writing-")
        .suffix(".png")
        .tempfile_in(folder)
        .map_err(DataError::io("write", path))?;
    encode(&mut temporary, colour, size, samples, metadata).map_err(failed)?;
    temporary
        .persist(path)
        .map_err(|error| DataError::io("write", path)(error.error))?;
    Ok(())
}

fn encode(
    file: &mut tempfile::NamedTempFile,
    colour: png::ColorType,
    size: &Photo,
    samples: &[u8],
    metadata: &[(String, String)],
) -> Result<(), png::EncodingError> {
    // Temporary files are private; a picture is as readable as any file one writes.
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let permissions = std::fs::Permissions::from_mode(0o644);
        file.as_file().set_permissions(permissions)?;
    }
    let mut out = BufWriter::new(file.as_file_mut());
    let mut encoder = png::Encoder::new(&mut out, size.width as u32, size.height as u32);
    encoder.set_color(colour);
    encoder.set_depth(png::BitDepth::Eight);
    for (keyword, text) in metadata {
        let latin = text
            .bytes()
            .all(|byte| byte == b'\n' || (32..127).contains(&byte));
        if latin {
            encoder.add_text_chunk(keyword.clone(), text.clone())?;
        } else {
            encoder.add_itxt_chunk(keyword.clone(), text.clone())?;
        }
    }
    let mut writer = encoder.write_header()?;
    writer.write_image_data(samples)?;
    writer.finish()?;
    out.flush()?;
    Ok(())
}

/// A compressed text may be a bomb.
const LONGEST_TEXT: usize = 1 << 24;

/// The texts in a PNG's metadata: pairs of keyword and text; those of Latin letters first.
///
/// # Errors
/// If the file cannot be read or is no PNG.
pub fn read_png_text(path: impl AsRef<Path>) -> Result<Vec<(String, String)>> {
    let path = path.as_ref();
    let bad = |error: png::DecodingError| DataError::image(path, error.to_string());
    let file = load(path, &ReadOptions::default())?;
    let mut reader = png::Decoder::new(Cursor::new(file))
        .read_info()
        .map_err(bad)?;
    // Texts may also stand behind the pixels.
    reader.finish().map_err(bad)?;
    let info = reader.info();
    let plain = info.uncompressed_latin1_text.iter();
    let mut texts: Vec<(String, String)> = plain
        .map(|chunk| (chunk.keyword.clone(), chunk.text.clone()))
        .collect();
    for chunk in &info.compressed_latin1_text {
        let mut chunk = chunk.clone();
        chunk
            .decompress_text_with_limit(LONGEST_TEXT)
            .map_err(bad)?;
        texts.push((chunk.keyword.clone(), chunk.get_text().map_err(bad)?));
    }
    for chunk in &info.utf8_text {
        let mut chunk = chunk.clone();
        chunk
            .decompress_text_with_limit(LONGEST_TEXT)
            .map_err(bad)?;
        texts.push((chunk.keyword.clone(), chunk.get_text().map_err(bad)?));
    }
    Ok(texts)
}

/// Pictures side by side, `columns` in a row, on white with `padding` pixels around each.
///
/// Cells are as large as the largest picture; smaller ones stand in the middle of theirs. Without pictures
/// the result has one white pixel.
pub fn grid(photos: &[Photo], columns: usize, padding: usize) -> Photo {
    const WHITE: [u8; 3] = [255; 3];
    let columns = columns.clamp(1, photos.len().max(1));
    let rows = photos.len().div_ceil(columns);
    let cell_width = photos.iter().map(|photo| photo.width).max().unwrap_or(0);
    let cell_height = photos.iter().map(|photo| photo.height).max().unwrap_or(0);
    let side = |cells: usize, cell: usize| (cells * (cell + padding) + padding).max(1);
    let mut sheet = Photo::filled(side(columns, cell_width), side(rows, cell_height), WHITE);
    for (at, photo) in photos.iter().enumerate() {
        let (row, column) = (at / columns, at % columns);
        let left = padding + column * (cell_width + padding) + (cell_width - photo.width) / 2;
        let top = padding + row * (cell_height + padding) + (cell_height - photo.height) / 2;
        for (y, line) in photo.rgb.chunks_exact((photo.width * 3).max(1)).enumerate() {
            let first = ((top + y) * sheet.width + left) * 3;
            sheet.rgb[first..first + line.len()].copy_from_slice(line);
        }
    }
    sheet
}
