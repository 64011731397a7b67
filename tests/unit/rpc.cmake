if(WITH_SERVER)
  graft_test(rpc_test unit/rpc_test.c rpc proto)
endif()
