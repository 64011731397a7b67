graft_test(golden_test golden/golden_test.c model sched kernels adapters)
target_sources(golden_test PRIVATE golden/golden.c)
if(TARGET kern_emu)
  set_tests_properties(golden_test PROPERTIES LABELS emulated)
  add_test(NAME golden_emulated_cublaslt COMMAND golden_test)
  set_tests_properties(golden_emulated_cublaslt PROPERTIES LABELS emulated
    ENVIRONMENT GRAFT_EMU_CUBLASLT=fine)
endif()
