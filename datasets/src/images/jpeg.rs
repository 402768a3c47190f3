//! JPEG files, whole or not at all.
//!
//! The decoder is asked to be strict, and the file's own structure is checked first: decoders fill what a
//! broken download lacks with grey, and a model would learn it.

use zune_core::bytestream::ZCursor;
use zune_core::colorspace::ColorSpace;
use zune_core::options::DecoderOptions;
use zune_jpeg::JpegDecoder;

/// Pixels of a JPEG before its orientation is applied.
#[derive(Debug)]
pub(super) struct Jpeg {
    pub(super) width: usize,
    pub(super) height: usize,
    /// `[height, width, 3]`.
    pub(super) rgb: Vec<u8>,
}

/// What the headers say.
#[derive(Debug)]
pub(super) struct Header {
    pub(super) width: usize,
    pub(super) height: usize,
    pub(super) exif: Option<Vec<u8>>,
}

fn decoder(bytes: &[u8]) -> JpegDecoder<ZCursor<&[u8]>> {
    let options = DecoderOptions::default()
        .set_strict_mode(true)
        // The limit in pixels is judged before; these would refuse panoramas.
        .set_max_width(usize::MAX)
        .set_max_height(usize::MAX)
        .jpeg_set_out_colorspace(ColorSpace::RGB);
    JpegDecoder::new_with_options(ZCursor::new(bytes), options)
}

/// Reads sizes and EXIF data, no pixels.
pub(super) fn header(bytes: &[u8]) -> Result<Header, String> {
    let mut decoder = decoder(bytes);
    decoder.decode_headers().map_err(|error| reason(&error))?;
    let info = decoder.info().ok_or("it has no frame header")?;
    Ok(Header {
        width: usize::from(info.width),
        height: usize::from(info.height),
        exif: decoder.exif().cloned(),
    })
}

/// Decodes baseline and progressive files; grey, `YCbCr`, RGB, CMYK and YCCK (both by Adobe's convention, in
/// which 255 means no ink, as every program that writes them does).
pub(super) fn decode(bytes: &[u8]) -> Result<Jpeg, String> {
    check_complete(bytes)?;
    let mut decoder = decoder(bytes);
    let rgb = decoder.decode().map_err(|error| reason(&error))?;
    let info = decoder.info().ok_or("it has no frame header")?;
    Ok(Jpeg {
        width: usize::from(info.width),
        height: usize::from(info.height),
        rgb,
    })
}

fn reason(error: &zune_jpeg::errors::DecodeErrors) -> String {
    // The decoder's own text comes with a debugging prefix on some variants.
    let text = format!("{error:?}");
    format!("it is a damaged or unusual JPEG ({})", text.trim())
}

/// Walks over the segments until the marker that ends the image.
///
/// `FF 00` and restart markers belong to the coded data; thumbnails lie inside segments, which are skipped by
/// their length.
fn check_complete(bytes: &[u8]) -> Result<(), String> {
    let cut = |at: usize| {
        Err(format!(
            "it is cut off: {at} of its bytes can be used and the marker that ends a JPEG is missing; \
             copy or download the file again"
        ))
    };
    let mut at = 2;
    let mut in_scan = false;
    loop {
        let Some(found) = bytes.get(at..).and_then(|rest| find_marker(rest, in_scan)) else {
            return cut(bytes.len());
        };
        at += found;
        match bytes[at - 1] {
            0xD9 => return Ok(()),
            0xD0..=0xD8 | 0x01 => {}
            marker => {
                let Some(length) = bytes.get(at..at + 2) else {
                    return cut(at);
                };
                at += usize::from(u16::from_be_bytes([length[0], length[1]])).max(2);
                in_scan = marker == 0xDA;
            }
        }
    }
}

/// Bytes up to and including the code of the next marker.
fn find_marker(rest: &[u8], in_scan: bool) -> Option<usize> {
    let mut previous = 0;
    for (at, byte) in rest.iter().enumerate() {
        let restart = in_scan && (0xD0..=0xD7).contains(byte);
        if previous == 0xFF && *byte != 0xFF && *byte != 0 && !restart {
            return Some(at + 1);
        }
        previous = *byte;
    }
    None
}
