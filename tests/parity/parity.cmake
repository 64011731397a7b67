graft_test(parity parity/parity.c kern_ref)
target_sources(parity PRIVATE parity/cases_attend.c parity/cases_linear.c parity/cases_random.c
  parity/cases_recurrent.c parity/cases_token.c parity/pairwise.c parity/rig.c parity/world.c)
if(TARGET kern_cpu)
  target_link_libraries(parity PRIVATE kern_cpu)
  target_compile_definitions(parity PRIVATE PARITY_CPU)
endif()
if(TARGET kern_cuda)
  target_link_libraries(parity PRIVATE kern_cuda)
  target_compile_definitions(parity PRIVATE PARITY_CUDA)
endif()
if(TARGET kern_emu)
  target_compile_definitions(parity PRIVATE PARITY_EMU)
  # One entry per group, so that they run side by side.
  foreach(group linear join heads ranks attend gdn ssd embed head sample score random)
    add_test(NAME parity_emulated_${group} COMMAND parity cuda test_${group})
    # The smallest limit of shared memory among the targets (8.9 and 12.0: 99 KiB) for every launch.
    set_tests_properties(parity_emulated_${group} PROPERTIES TIMEOUT 3600 LABELS emulated
      ENVIRONMENT GRAFT_EMU_SHARED=101376)
  endforeach()
  # Prompts by the stand-in of cuBLASLt. Odd, so that both held types come by. Two minutes under the
  # race check, where gemm_test runs on the stand-in.
  if(NOT SANITIZE MATCHES "thread")
    add_test(NAME parity_emulated_cublaslt COMMAND parity "cuda prompt" test_*)
    set_tests_properties(parity_emulated_cublaslt PROPERTIES TIMEOUT 3600 LABELS emulated
      ENVIRONMENT "GRAFT_EMU_CUBLASLT=fine;GRAFT_EVERY=23")
  endif()
endif()
set_tests_properties(parity PROPERTIES TIMEOUT 3600)
