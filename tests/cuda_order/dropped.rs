//! What is dropped, and what went wrong meanwhile.

use super::*;

#[test]
fn a_buffer_is_freed_on_any_thread() {
    let Some(_alone) = alone() else { return };
    let context = context();
    for stream in [context.default_stream(), context.per_thread_stream(), context.new_stream().unwrap()] {
        let cuda = on(&stream);
        warm(&cuda);
        context.synchronize().unwrap();
        let before = cuda.in_use().unwrap().now;
        let (buffer, reports) = (cuda.zeros::<u8>(1 << 28).unwrap(), cuda.reports(1 << 20).unwrap());
        assert!(cuda.in_use().unwrap().now >= before + (1 << 28));
        elsewhere(move || drop((buffer, reports)));
        let x = cuda.upload(&numbers(N, 13)).unwrap();
        let mut sum = sum(cuda.clone(), N);
        add(&mut sum, Cuda::view(&x)).unwrap();
        elsewhere(move || drop((sum, x)));
        cuda.synchronize().unwrap();
        assert_eq!(cuda.in_use().unwrap().now, before);
    }
}

/// What somebody else's drop left behind is no error of a sum, and is told once to who asks.
#[test]
fn an_earlier_error_of_someone_elses_refuses_nothing() {
    let Some(_alone) = alone() else { return };
    let context = context();
    let cuda = on(&context.default_stream());
    let x = numbers(N, 14);
    let gradient = cuda.upload(&x).unwrap();
    let mut sum = sum(cuda.clone(), N);
    let went_wrong = || context.record_err(Err::<(), _>(DriverError(CUresult::CUDA_ERROR_INVALID_VALUE)));
    for _ in 0..3 {
        went_wrong();
        add(&mut sum, Cuda::view(&gradient)).unwrap();
    }
    went_wrong();
    assert!(read(&sum) == expected(&[&x, &x, &x]));
    went_wrong();
    drop(on(&context.default_stream()));
    match cuda.synchronize() {
        Err(Error::Backend { message, .. }) => assert!(message.contains("INVALID_VALUE"), "{message}"),
        other => panic!("{other:?}"),
    }
    cuda.synchronize().unwrap();
}
