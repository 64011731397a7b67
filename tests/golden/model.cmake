graft_test(golden_test golden/golden_test.c model sched kernels adapters)
target_sources(golden_test PRIVATE golden/golden.c)
set_tests_properties(golden_test PROPERTIES TIMEOUT 3600)
graft_test(golden_state_test golden/golden_state_test.c model sched kernels adapters)
target_sources(golden_state_test PRIVATE golden/golden.c)
if(TARGET kern_emu)
  add_test(NAME golden_emulated COMMAND golden_test cuda)
  add_test(NAME golden_emulated_states COMMAND golden_state_test cuda)
  add_test(NAME golden_emulated_cublaslt COMMAND golden_test cuda)
  set_tests_properties(golden_emulated golden_emulated_states golden_emulated_cublaslt
    PROPERTIES LABELS emulated TIMEOUT 3600)
  set_tests_properties(golden_emulated_cublaslt PROPERTIES
    ENVIRONMENT GRAFT_EMU_CUBLASLT=fine)
endif()
