//! Norms and rotary positions.

use crate::{apart, download, noise, on_each_device, upload};
use bulkhead_kernels::compute::reference;
use bulkhead_kernels::gpu::{Device, LaunchError, Rotation, rms_norm, rms_norm_heads, rotate};

pub fn norms_are_those_of_the_plain_loops<D: Device>(on: &D) {
    for (rows, width) in [
        (1, 1),
        (3, 31),
        (2, 64),
        (4, 255),
        (2, 257),
        (3, 576),
        (1, 2048),
    ] {
        let (x, weight) = (noise(rows * width, 1), noise(width, 2));
        let each = x.chunks_exact(width);
        let want: Vec<f32> = each
            .flat_map(|row| reference::rms_norm(row, &weight, 1e-5))
            .collect();
        let (on_x, on_weight) = (upload(on, &x), upload(on, &weight));
        let mut out = upload(on, &vec![f32::NAN; x.len()]);
        let (x, weight) = (on.span(&on_x), on.span(&on_weight));
        rms_norm(on, x, weight, 1e-5, &mut on.span_mut(&mut out)).expect("it runs");
        let got = download(on, &out, &want);
        assert!(apart(&got, &want) < 1e-5, "{rows} {width}");
    }
}

pub fn norms_of_heads_touch_those_heads_alone<D: Device>(on: &D) {
    for (rows, skip, heads, width, behind) in [
        (1, 0, 1, 64, 0),
        (3, 0, 4, 128, 128),
        (2, 256, 2, 64, 5),
        (5, 3, 3, 20, 20),
    ] {
        let stride = skip + heads * width + behind;
        let (x, weight) = (noise(rows * stride, 3), noise(width, 4));
        let mut want = x.clone();
        for row in want.chunks_exact_mut(stride) {
            for head in row[skip..][..heads * width].chunks_exact_mut(width) {
                head.copy_from_slice(&reference::rms_norm(head, &weight, 1e-6));
            }
        }
        let mut on_x = upload(on, &x);
        let on_weight = upload(on, &weight);
        let mut all = on.span_mut::<f32>(&mut on_x);
        let mut part = all.skip(skip).expect("in range");
        rms_norm_heads(on, &mut part, stride, heads, on.span(&on_weight), 1e-6).expect("it runs");
        let got = download(on, &on_x, &x);
        assert!(apart(&got, &want) < 1e-5, "{rows} {skip} {heads} {width}");
        for (got, x) in got.chunks(stride).zip(x.chunks(stride)) {
            let end = skip + heads * width;
            assert_eq!((&got[..skip], &got[end..]), (&x[..skip], &x[end..]));
        }
    }
}

pub fn heads_are_turned_as_by_the_plain_loops<D: Device>(on: &D) {
    for neighbours in [false, true] {
        for (rows, heads, width, behind) in
            [(1, 1, 64, 0), (7, 3, 128, 128), (2, 4, 20, 3), (3, 2, 6, 0)]
        {
            let stride = heads * width + behind;
            let (x, turns) = (noise(rows * stride, 5), noise(rows * width, 6));
            let mut want = x.clone();
            reference::rotate(&mut want, stride, heads, width, &turns, neighbours);
            let mut memory = upload(on, &x);
            let on_turns = upload(on, &turns);
            let how = Rotation {
                heads,
                width,
                stride,
                neighbours,
            };
            rotate(on, &mut on.span_mut(&mut memory), on.span(&on_turns), how).expect("it runs");
            let got = download(on, &memory, &x);
            assert!(
                apart(&got, &want) < 1e-6,
                "{neighbours} {rows} {heads} {width}"
            );
            for (got, x) in got.chunks(stride).zip(x.chunks(stride)) {
                assert_eq!(
                    got[heads * width..],
                    x[heads * width..],
                    "values are not turned"
                );
            }
        }
    }
}

pub fn lengths_that_do_not_fit_are_refused_and_change_nothing<D: Device>(on: &D) {
    let x = noise(12, 8);
    let (memory, weight) = (upload(on, &x), upload(on, &x[..5]));
    let mut out = upload(on, &x);
    let (long, short) = (on.span::<f32>(&memory), on.span::<f32>(&weight));
    let refused = |result: Result<(), LaunchError>| {
        assert!(
            matches!(result, Err(LaunchError::Shape { .. })),
            "{result:?}"
        );
    };
    refused(rms_norm(on, long, short, 1e-5, &mut on.span_mut(&mut out)));
    refused(rms_norm_heads(
        on,
        &mut on.span_mut(&mut out),
        9,
        2,
        short,
        1e-5,
    ));
    let how = Rotation {
        heads: 2,
        width: 3,
        stride: 6,
        neighbours: true,
    };
    refused(rotate(on, &mut on.span_mut(&mut out), short, how));
    assert_eq!(download(on, &out, &x), x);
}

on_each_device! {
    norms_are_those_of_the_plain_loops
    norms_of_heads_touch_those_heads_alone
    heads_are_turned_as_by_the_plain_loops
    lengths_that_do_not_fit_are_refused_and_change_nothing
}
