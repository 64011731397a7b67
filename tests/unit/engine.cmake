graft_test(engine_test unit/engine_test.c engine kernels)
