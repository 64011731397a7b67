graft_test(golden_test golden/golden_test.c model sched kernels)
target_sources(golden_test PRIVATE golden/golden.c golden/golden_adapter.c)
