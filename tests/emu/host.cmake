# The host half of the emulated device: faults of host programs that it must show, and its words.
if(TARGET kern_emu)
  add_library(emu_host_kernels STATIC emu/host_kernels.cu)
  set_source_files_properties(emu/host_kernels.cu PROPERTIES LANGUAGE CXX COMPILE_OPTIONS "-xc++")
  target_link_libraries(emu_host_kernels PUBLIC kern_emu)
  graft_test(host_faults_test emu/host_faults_test.c emu_host_kernels)
  graft_test(host_test emu/host_test.c emu_host_kernels)
  graft_test(steps_test emu/steps_test.c kernels)
  graft_test(gemm_test emu/gemm_test.c kernels)
  graft_test(recurrent_test emu/recurrent_test.c kernels)
  set_tests_properties(gemm_test host_faults_test host_test recurrent_test steps_test
    PROPERTIES LABELS emulated)
endif()
