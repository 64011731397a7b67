if(WITH_SERVER)
  graft_test(options_test unit/options_test.c options)
endif()
