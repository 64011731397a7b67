graft_test(parity parity/parity.c kern_ref)
target_sources(parity PRIVATE parity/cases_attend.c parity/cases_linear.c parity/cases_token.c
  parity/pairwise.c parity/rig.c parity/world.c)
if(TARGET kern_cpu)
  target_link_libraries(parity PRIVATE kern_cpu)
  target_compile_definitions(parity PRIVATE PARITY_CPU)
endif()
set_tests_properties(parity PROPERTIES TIMEOUT 3600)
